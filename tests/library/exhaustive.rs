// SPDX-License-Identifier: MIT OR Apache-2.0
//! The grammar against a second implementation on every string of its tokens, up to a length.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::figures;
use crate::support::targets::grammar;

/// What rules are made of, at least one of each kind. Numbers stand with the letter that mostly follows, so that a few
/// tokens make a whole rule.
const KINDS: [&str; 24] = [
    "!", "?", "0000:", "01:", "10de:", "00", "2204", "*", ":", ".", ".0", ".*", "/00.0", "class:",
    "boot_vga", "@", "+", "+slot", "=", "none", "auto", "off", "g", " ",
];

/// More of the same kinds, and what comes close to them.
const MORE: [&str; 16] = [
    "10000:", "1f", "20", "ff", ".7", ".8", "/", "0x", "ffffffff", "pci:", "pci_", "+group",
    "slot", "vfio-pci", "debug", "\"",
];

#[test]
fn every_string_of_tokens_means_what_the_model_says() {
    let all = [&KINDS[..], &MORE].concat();
    // An unoptimised build takes twenty times as long.
    if cfg!(debug_assertions) {
        judge_strings(&all, 2);
        return;
    }
    tell(&all, 5);
    if std::env::var_os("VFIO_OVERRIDE_ALL").is_some() {
        tell(&KINDS, 6);
    }
}

fn tell(tokens: &[&str], length: u32) {
    let count = judge_strings(tokens, length);
    figures::tell(&format!(
        "grammar: all {count} strings of up to {length} of {} tokens, each as the model says",
        tokens.len()
    ));
}

/// Judges all strings of up to so many tokens. Returns how many these are.
fn judge_strings(tokens: &[&str], length: u32) -> usize {
    // Each worker has the strings that begin with a token of its own; the token itself is one of them.
    let (next, count) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(first) = tokens.get(next.fetch_add(1, Ordering::Relaxed)) {
            let judged = judge_all(&mut first.as_bytes().to_vec(), tokens, length - 1);
            count.fetch_add(judged, Ordering::Relaxed);
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let count = count.into_inner();
    assert_eq!(count, (1..=length).map(|some| tokens.len().pow(some)).sum());
    count
}

/// Judges the text and all that begin with it and go on for so many tokens. Returns how many these are.
fn judge_all(text: &mut Vec<u8>, tokens: &[&str], more: u32) -> usize {
    grammar(text);
    let mut count = 1;
    if more > 0 {
        let length = text.len();
        for token in tokens {
            text.extend(token.as_bytes());
            count += judge_all(text, tokens, more - 1);
            text.truncate(length);
        }
    }
    count
}
