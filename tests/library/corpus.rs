// SPDX-License-Identifier: MIT OR Apache-2.0
//! The inputs that fuzzing kept, and those that it begins with: each does what a second implementation says.

use std::fs;
use std::path::Path;

use crate::support::targets::TARGETS;

#[test]
fn the_corpora_pass() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in TARGETS {
        let mut count = 0;
        for entry in fs::read_dir(corpora.join(name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }
}
