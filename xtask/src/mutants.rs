//! Shows that the proof can fail: one forbidden expression in the early binary, and the build is
//! red with the symbol named.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build::{self, Build, MuslOptions, Target};
use crate::workspace::Workspace;

/// The function of `src/early/main.rs` that gets the expression as its first statement.
const ANCHOR: &str = "\nfn work(";

/// A change that must not build.
pub struct Mutant {
    pub name: &'static str,
    /// `black_box` keeps the compiler from seeing that the value is known.
    statement: &'static str,
    /// What the report must name.
    symbol: &'static str,
}

pub const MUTANTS: [Mutant; 2] = [
    Mutant {
        name: "format!",
        statement: "core::hint::black_box(std::format!(\"{}\", core::hint::black_box(7)));",
        symbol: "__rust_dealloc",
    },
    Mutant {
        name: "an index that can panic",
        statement: "core::hint::black_box([1, 2, 3][core::hint::black_box(7)]);",
        symbol: "core::panicking::panic_bounds_check",
    },
];

/// A copy of the project's sources to change.
pub struct Replica {
    workspace: Workspace,
    original: String,
}

impl Replica {
    pub fn of(workspace: &Workspace) -> Result<Self> {
        let scratch = workspace.scratch("mutants")?;
        let root = scratch.join("source");
        if root.exists() {
            fs::remove_dir_all(&root)
                .with_context(|| format!("cannot remove {}", root.display()))?;
        }
        for source in workspace.sources()? {
            copy(&source, &root.join(source.strip_prefix(&workspace.root)?))?;
        }
        let copy = Workspace { root, target: scratch.join("target") };
        let original = fs::read_to_string(main_file(&copy))
            .with_context(|| format!("cannot read {}", main_file(&copy).display()))?;
        Ok(Self { workspace: copy, original })
    }

    /// The copy as it is must build; otherwise a red mutant would prove nothing.
    pub fn is_green(&self, target: Target, musl: MuslOptions) -> Result<()> {
        self.write(&self.original)?;
        match build::build(&self.workspace, target, musl)? {
            Build::Passed(_) => Ok(()),
            Build::Failed(report) => bail!("{report}"),
        }
    }

    /// The mutant must fail, and the report must say why.
    pub fn is_red(&self, mutant: &Mutant, target: Target, musl: MuslOptions) -> Result<()> {
        self.write(&insert(&self.original, mutant.statement)?)?;
        match build::build(&self.workspace, target, musl)? {
            Build::Passed(_) => bail!("{} in the early binary was not found", mutant.name),
            Build::Failed(report) if names(&report, mutant.symbol) => Ok(()),
            Build::Failed(report) => {
                bail!("the report does not name {} and its caller:\n{report}", mutant.symbol)
            }
        }
    }

    fn write(&self, text: &str) -> Result<()> {
        let path = main_file(&self.workspace);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn main_file(workspace: &Workspace) -> PathBuf {
    workspace.root.join("src/early/main.rs")
}

/// Puts a statement at the beginning of the anchor's body.
fn insert(source: &str, statement: &str) -> Result<String> {
    let body = source.find(ANCHOR).and_then(|start| Some(start + source[start..].find("{\n")? + 2));
    let Some(body) = body else {
        bail!(
            "src/early/main.rs has no `{}` any more: adapt ANCHOR in xtask/src/mutants.rs",
            ANCHOR.trim_start()
        );
    };
    let (before, after) = source.split_at(body);
    Ok(format!("{before}    {statement}\n{after}"))
}

/// Whether a line tells of the symbol together with a function that calls it.
fn names(report: &str, symbol: &str) -> bool {
    report.lines().any(|line| line.contains(symbol) && line.contains(", called by "))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_comes_first_in_the_body() -> Result<()> {
        let source = "fn main() {\n}\n\nfn work(a: u8) -> bool {\n    true\n}\n";
        assert_eq!(
            insert(source, "x();")?,
            "fn main() {\n}\n\nfn work(a: u8) -> bool {\n    x();\n    true\n}\n"
        );
        Ok(())
    }

    #[test]
    fn a_lost_anchor_is_told() {
        let error = insert("fn main() {\n}\n", "x();").map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("src/early/main.rs has no `fn work(` any more: adapt ANCHOR in \
                 xtask/src/mutants.rs"
                .to_owned())
        );
    }

    #[test]
    fn a_report_must_name_the_caller_too() {
        assert!(names("contains core::a::b, called by work", "core::a::b"));
        assert!(!names("contains core::a::b", "core::a::b"));
    }
}
