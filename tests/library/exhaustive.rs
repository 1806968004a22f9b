// SPDX-License-Identifier: MIT OR Apache-2.0
//! The grammar against a second implementation on every string of its tokens, up to a length.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::figures;
use crate::support::targets::grammar;

/// What rules are made of, and what comes close to it. Numbers stand with the letter that mostly follows, so that a few
/// tokens make a whole rule.
const TOKENS: [&str; 40] = [
    "!", "?", "0000:", "10000:", "01:", "10de:", "00", "1f", "20", "ff", "2204", "*", ":", ".",
    ".0", ".7", ".8", ".*", "/", "/00.0", "0x", "ffffffff", "pci:", "pci_", "class:", "boot_vga",
    "@", "+", "+slot", "+group", "slot", "=", "none", "auto", "vfio-pci", "off", "debug", "g",
    "\"", " ",
];

#[test]
fn every_string_of_tokens_means_what_the_model_says() {
    let is_long = std::env::var_os("VFIO_OVERRIDE_ALL").is_some();
    // An unoptimised build takes twenty times as long.
    let length = match (cfg!(debug_assertions), is_long) {
        (true, _) => 2,
        (false, false) => 5,
        (false, true) => 6,
    };
    // Each worker has the strings that begin with a token of its own; the token itself is one of them.
    let (next, count) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(first) = TOKENS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let judged = judge_all(&mut first.as_bytes().to_vec(), length - 1);
            count.fetch_add(judged, Ordering::Relaxed);
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let count = count.into_inner();
    assert_eq!(
        count,
        (1..=length).map(|tokens| TOKENS.len().pow(tokens.try_into().unwrap())).sum()
    );
    if length > 2 {
        figures::tell(&format!(
            "grammar: all {count} strings of up to {length} of {} tokens, each as the model says",
            TOKENS.len()
        ));
    }
}

/// Judges the text and all that begin with it and go on for so many tokens. Returns how many these are.
fn judge_all(text: &mut Vec<u8>, more: usize) -> usize {
    grammar(text);
    let mut count = 1;
    if more > 0 {
        let length = text.len();
        for token in TOKENS {
            text.extend(token.as_bytes());
            count += judge_all(text, more - 1);
            text.truncate(length);
        }
    }
    count
}
