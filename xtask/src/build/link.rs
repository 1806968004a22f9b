// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads from a failed link what allocated.
//!
//! The early binary's allocator calls a function that exists nowhere. When any allocation is
//! reachable, the linker cannot resolve it and says from where it was referred to.

use std::collections::BTreeSet;

/// The function that exists nowhere; `src/early` refers to it by this name.
pub const MISSING: &str = "vfio_override_early_must_not_allocate";

/// The functions that the linker found referring to [`MISSING`]; `None` if the build failed otherwise.
pub fn allocating_functions(messages: &str) -> Option<Vec<String>> {
    let mut current = None;
    let mut of_lld = false;
    let mut found = BTreeSet::new();
    let mut failed = false;
    for line in messages.lines() {
        if let Some(name) = after(line, "in function ").and_then(quoted) {
            current = Some(demangled(name));
        }
        if after(line, "undefined reference to ").and_then(quoted) == Some(MISSING) {
            failed = true;
            found.extend(current.clone());
        }
        if let Some(symbol) = after(line, "undefined symbol: ") {
            of_lld = symbol == MISSING;
            failed |= of_lld;
        }
        if of_lld && let Some(place) = after(line, ">>> ") {
            found.extend(
                place
                    .rsplit_once(":(")
                    .and_then(|(_, rest)| rest.split_once(')'))
                    .map(|(name, _)| demangled(name.strip_prefix(".text.").unwrap_or(name))),
            );
        }
    }
    failed.then(|| found.into_iter().collect())
}

fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

fn after<'text>(line: &'text str, mark: &str) -> Option<&'text str> {
    line.split_once(mark).map(|(_, rest)| rest)
}

/// GNU ld, which links with glibc, quotes with a backtick and an apostrophe, or with two apostrophes since 2.41.
fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix(['`', '\''])?.split_once('\'').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_are_named() {
        let messages = "\
  = note: /usr/bin/ld: x.rcgu.o: in function `__rustc::__rust_dealloc':
          x.cgu.0:(.text._RN+0x2): undefined reference to `vfio_override_early_must_not_allocate'
          /usr/bin/ld: x.rcgu.o: in function `_ZN4work4work17h0123456789abcdefE':
          x.cgu.0:(.text._ZN+0x2): undefined reference to `vfio_override_early_must_not_allocate'
          collect2: error: ld returned 1 exit status";
        assert_eq!(
            allocating_functions(messages),
            Some(vec!["__rustc::__rust_dealloc".into(), "work::work".into()])
        );
    }

    #[test]
    fn newer_quotes_are_read() {
        let messages = "ld: a.o: in function 'work':\n\
            a.rs:(.text+0x2): undefined reference to 'vfio_override_early_must_not_allocate'";
        assert_eq!(allocating_functions(messages), Some(vec!["work".to_owned()]));
    }

    #[test]
    fn the_functions_that_lld_names_are_read() {
        let messages = "\
  = note: rust-lld: error: undefined symbol: vfio_override_early_must_not_allocate
          >>> referenced by x.cgu.0
          >>>               /t/x.rcgu.o:(__rustc::__rust_dealloc)
          >>> referenced by x.cgu.0
          >>>               /t/x.rcgu.o:(_ZN4work4work17h0123456789abcdefE)
          rust-lld: error: undefined symbol: other
          >>> referenced by x.cgu.0
          >>>               /t/x.rcgu.o:(innocent)
          collect2: error: ld returned 1 exit status";
        assert_eq!(
            allocating_functions(messages),
            Some(vec!["__rustc::__rust_dealloc".into(), "work::work".into()])
        );
    }

    #[test]
    fn other_failures_are_not_allocations() {
        assert_eq!(allocating_functions("error[E0425]: cannot find value"), None);
        assert_eq!(
            allocating_functions("ld: in function `a': undefined reference to `memcpy_typo'"),
            None
        );
    }
}
