//! Lines out of a text that arrives in pieces.

use heapless::Vec;

/// The longest line that is handed over; longer ones are dropped. The longest of `modules.alias`
/// with `vfio_pci:` has 77 bytes and its module's name.
const MAX_LINE: usize = 256;

/// Joins the pieces of a text and cuts it into lines.
#[derive(Default)]
pub(crate) struct Lines {
    line: Vec<u8, MAX_LINE>,
    too_long: bool,
}

impl Lines {
    /// Takes the next piece, and hands over each line that it completes, without its newline.
    pub(crate) fn add(&mut self, piece: &[u8], each: &mut dyn FnMut(&[u8])) {
        // Between two parts, and only there, stood a newline.
        let mut is_first = true;
        for part in piece.split(|&byte| byte == b'\n') {
            if !is_first {
                self.finish(each);
            }
            is_first = false;
            self.too_long |= self.line.extend_from_slice(part).is_err();
        }
    }

    /// Hands over the last line of a text that does not end with a newline.
    pub(crate) fn finish(&mut self, each: &mut dyn FnMut(&[u8])) {
        if !self.too_long && !self.line.is_empty() {
            each(&self.line);
        }
        self.line.clear();
        self.too_long = false;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            lines.add(piece, &mut |line| found.push(line.to_vec()));
        }
        lines.finish(&mut |line| found.push(line.to_vec()));
        found
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[ab\n]{0,40}", size in 1_usize..8) {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let whole: Vec<Vec<u8>> = text
                .split('\n')
                .filter(|line| !line.is_empty())
                .map(|line| line.as_bytes().to_vec())
                .collect();
            prop_assert_eq!(lines(&pieces), whole);
        }
    }

    #[test]
    fn only_a_line_that_does_not_fit_is_dropped() {
        let (fits, long) = ([b'a'; MAX_LINE], [b'b'; MAX_LINE + 1]);
        assert_eq!(lines(&[&fits, b"\n", &long, b"\nc\n"]), [&fits[..], b"c"]);
    }
}
