// SPDX-License-Identifier: MIT OR Apache-2.0
//! The image of an arm64 kernel, of which QEMU loads what it finds: the header is described in the kernel's
//! Documentation/arch/arm64/booting.rst.

use anyhow::{Context, Result, bail};

/// Where the magic is, and what it says.
const MAGIC: (usize, &[u8]) = (56, b"ARM\x64");

/// What the kernel's banner begins with.
const BANNER: &[u8] = b"Linux version ";

/// The kernel's release, as `uname -r` prints it.
pub fn release(image: &[u8]) -> Result<String> {
    let (offset, magic) = MAGIC;
    if image.get(offset..offset + magic.len()) != Some(magic) {
        bail!("not an arm64 image: the header's magic is missing");
    }
    let after = |start: usize| image.get(start + BANNER.len()..).unwrap_or_default();
    image
        .windows(BANNER.len())
        .enumerate()
        .filter(|(_, bytes)| *bytes == BANNER)
        .find_map(|(start, _)| {
            let word = after(start).split(|byte| *byte == b' ').next()?;
            // Elsewhere the banner is a format that the release is to be put into.
            let is_release = word.first()?.is_ascii_digit() && word.len() < 65;
            is_release.then(|| String::from_utf8_lossy(word).into_owned())
        })
        .context("the arm64 image does not say its version (is it packed?)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_that_of_the_banner() {
        let mut image = vec![0; 56];
        image.extend(b"ARM\x64 Linux version %s (%s)\0Linux version 6.12.9-arm64 (x)\n");
        assert_eq!(release(&image).ok().as_deref(), Some("6.12.9-arm64"));
        assert!(release(b"MZ").is_err());
        assert!(release(&image[..70]).is_err());
    }
}
