// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel command line, split as the kernel splits it (`next_arg` in `lib/cmdline.c` and
//! `parse_args` in `kernel/params.c`).

/// The most bytes of a command line that are read. The kernel's own limit is 2,048 on x86 and arm64
/// (`COMMAND_LINE_SIZE`).
pub const MAX_LENGTH: usize = 64 * 1024;

/// The name of our parameter. It holds neither `-` nor `_`, between which the kernel makes no difference.
pub const PARAMETER: &[u8] = b"vfio.override";

/// White space as `isspace` of `lib/ctype.c` has it: also vertical tab and the Latin-1 no-break
/// space, which cuts a UTF-8 letter such as `à` in two.
pub const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0xa0)
}

/// One parameter, its quotes taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    /// The text before the first `=`.
    pub name: &'a [u8],
    /// The text after it; `None` without a `=`.
    pub value: Option<&'a [u8]>,
    /// Whether white space follows: `false` for the last one of a line, which may have been cut.
    pub ended: bool,
}

/// The parameters of the kernel's part of `line`: up to `--` or a NUL byte.
pub fn parameters(line: &[u8]) -> impl Iterator<Item = Parameter<'_>> {
    let mut rest = line;
    core::iter::from_fn(move || {
        let (parameter, after) = next_parameter(rest)?;
        rest = after;
        Some(parameter)
    })
    .take_while(|parameter| !(parameter.name == b"--" && parameter.value.is_none()))
}

/// The names and values of all parameters that have one. Of a line that is longer than [`MAX_LENGTH`], only the
/// parameters that end within that length count.
pub fn values(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let is_cut = line.len() > MAX_LENGTH;
    parameters(line.get(..MAX_LENGTH).unwrap_or(line))
        .filter(move |parameter| parameter.ended || !is_cut)
        .filter_map(|parameter| Some((parameter.name, parameter.value?)))
}

fn next_parameter(line: &[u8]) -> Option<(Parameter<'_>, &[u8])> {
    let start = line.iter().position(|&byte| !is_space(byte))?;
    let line = line.get(start..)?;
    let (mut quoted, line) = match line {
        [0, ..] => return None,
        [b'"', after @ ..] => (true, after),
        _ => (false, line),
    };

    let mut in_quotes = quoted;
    // The kernel keeps the position in a number whose 0 means "none yet", so that a leading `=` belongs to the name.
    let mut equals = 0;
    let mut end = line.len();
    for (at, &byte) in line.iter().enumerate() {
        match byte {
            // Nearly all bytes.
            b'#'..=b'<' | b'>'..=b'~' => {}
            b'=' if equals == 0 => equals = at,
            b'"' => in_quotes = !in_quotes,
            _ if byte == 0 || is_space(byte) && !in_quotes => {
                end = at;
                break;
            }
            _ => {}
        }
    }

    let (token, rest) = line.split_at_checked(end)?;
    let (name, mut value) = match token.split_at_checked(equals) {
        Some((name, after)) if equals > 0 => (name, after.get(1..)),
        _ => (token, None),
    };
    if let Some([b'"', inner @ ..]) = value {
        quoted = true;
        value = Some(inner);
    }
    let last = value.unwrap_or(name);
    let last = if quoted { last.strip_suffix(b"\"").unwrap_or(last) } else { last };
    let (name, value) = if value.is_some() { (name, Some(last)) } else { (last, None) };
    let ended = rest.first().is_some_and(|&byte| is_space(byte));
    let parameter = Parameter { name, value, ended };
    Some((parameter, rest))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn split(line: &[u8]) -> Vec<(String, Option<String>)> {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        parameters(line).map(|p| (text(p.name), p.value.map(text))).collect()
    }

    /// `next_arg` and `parse_args` again, statement by statement on a NUL-terminated buffer.
    fn kernel(line: &[u8]) -> Vec<(String, Option<String>)> {
        let mut args: Vec<u8> = line.iter().copied().take_while(|&byte| byte != 0).collect();
        args.push(0);
        let isspace = |byte: u8| b" \t\n\x0b\x0c\r\xa0".contains(&byte);
        let text = |buffer: &[u8], from: usize| {
            let bytes: Vec<u8> = buffer[from..].iter().copied().take_while(|&b| b != 0).collect();
            bytes.escape_ascii().to_string()
        };
        let mut found = Vec::new();
        let mut base = 0;
        while isspace(args[base]) {
            base += 1;
        }
        while args[base] != 0 {
            let (mut i, mut equals, mut in_quote, mut quoted) = (0, 0, false, false);
            if args[base] == b'"' {
                base += 1;
                (in_quote, quoted) = (true, true);
            }
            while args[base + i] != 0 {
                if isspace(args[base + i]) && !in_quote {
                    break;
                }
                if equals == 0 && args[base + i] == b'=' {
                    equals = i;
                }
                if args[base + i] == b'"' {
                    in_quote = !in_quote;
                }
                i += 1;
            }
            let param = base;
            let mut val = None;
            if equals != 0 {
                args[base + equals] = 0;
                let mut at = base + equals + 1;
                if args[at] == b'"' {
                    at += 1;
                    if args[base + i - 1] == b'"' {
                        args[base + i - 1] = 0;
                    }
                }
                val = Some(at);
            }
            if quoted && i > 0 && args[base + i - 1] == b'"' {
                args[base + i - 1] = 0;
            }
            let mut next = base + i;
            let mut cut = args.clone();
            if cut[next] != 0 {
                cut[next] = 0;
                next += 1;
            }
            let (param, val) = (text(&cut, param), val.map(|at| text(&cut, at)));
            args = cut;
            base = next;
            while isspace(args[base]) {
                base += 1;
            }
            if val.is_none() && param == "--" {
                break;
            }
            found.push((param, val));
        }
        found
    }

    #[test]
    fn splits_as_the_kernel_does() {
        type Case = (&'static [u8], &'static [(&'static str, Option<&'static str>)]);
        let cases: &[Case] = &[
            (b"", &[]),
            (b" \t\n", &[]),
            (b"quiet root=/dev/sda1\n", &[("quiet", None), ("root", Some("/dev/sda1"))]),
            (b"a=b=c", &[("a", Some("b=c"))]),
            (b"=a", &[("=a", None)]),
            (b"=a=b", &[("=a", Some("b"))]),
            (b"a=", &[("a", Some(""))]),
            (b"a=\"b c\" d", &[("a", Some("b c")), ("d", None)]),
            (b"\"a=b c\" d", &[("a", Some("b c")), ("d", None)]),
            (b"a=b\" \"c", &[("a", Some("b\\\" \\\"c"))]),
            (b"\"", &[("", None)]),
            (b"a=\"", &[("a", Some(""))]),
            (b"a=\"b c", &[("a", Some("b c"))]),
            (b"a -- b", &[("a", None)]),
            (b"a \"--\" b", &[("a", None)]),
            (b"--=1 b", &[("--", Some("1")), ("b", None)]),
            (b"a\xa0b", &[("a", None), ("b", None)]),
            (b"a\0b", &[("a", None)]),
            (b"a=\xff", &[("a", Some("\\xff"))]),
        ];
        for (line, expected) in cases {
            let expected: Vec<_> =
                expected.iter().map(|(n, v)| (n.to_string(), v.map(ToString::to_string))).collect();
            assert_eq!(split(line), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn our_parameter_is_found_wherever_it_stands() {
        let line = b"vfio.override quiet vfio.override=1 vfio.overrides=2 \"vfio.override=3 4\" -- vfio.override=5";
        let other: &[u8] = b"vfio.overrides";
        let expected: [(&[u8], &[u8]); 3] = [(PARAMETER, b"1"), (other, b"2"), (PARAMETER, b"3 4")];
        assert!(values(line).eq(expected));
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        let telling = proptest::sample::select(b"ab=\"- \t\0\xa0\xff".to_vec());
        prop_oneof![
            proptest::collection::vec(telling, 0..24),
            proptest::collection::vec(any::<u8>(), 0..64),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_split_as_the_kernel_does(line in line()) {
            prop_assert_eq!(split(&line), kernel(&line));
        }
    }
}
