// SPDX-License-Identifier: MIT OR Apache-2.0
//! A copy of the sources in another folder: it shows that the proof can fail, by one forbidden expression in
//! the early binary that turns the build red with the symbol named, and that the same bytes come from there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build::{self, Binary, Build, MuslOptions, Target};
use crate::ground::workspace::Workspace;

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

    /// The copy as it is must build, otherwise a red mutant would prove nothing.
    pub fn build(&self, target: Target, musl: MuslOptions) -> Result<Binary> {
        self.write(&self.original)?;
        build::build_or_stop(&self.workspace, target, musl)
    }

    /// The copy, another folder with the same sources.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
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

    /// Without the host tool, whose sources and dependencies are in the same package, the early binary must
    /// be what it is with it, byte for byte. The copy is of no use for mutants afterwards.
    pub fn is_same_without_host(
        &self,
        target: Target,
        musl: MuslOptions,
        shipped: &Path,
    ) -> Result<()> {
        self.write(&self.original)?;
        let manifest = self.workspace.root.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).context("cannot read the manifest")?;
        fs::write(&manifest, without_host(&text)?).context("cannot write the manifest")?;
        for path in ["src/host", "tests/host"] {
            let path = self.workspace.root.join(path);
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context("cannot remove the host tool");
                }
                _ => {}
            }
        }
        match build::build(&self.workspace, target, musl)? {
            Build::Passed(binary) if fs::read(&binary.path)? == fs::read(shipped)? => Ok(()),
            Build::Passed(binary) => bail!(
                "{} differs from {}, which was made beside the host tool",
                binary.path.display(),
                shipped.display()
            ),
            Build::Failed(report) => bail!("{report}"),
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

/// The manifest without the host tool: its programs and tests, and what its feature enables. The optional
/// dependencies stay, so that the lock file fits.
fn without_host(manifest: &str) -> Result<String> {
    let needs_host = |paragraph: &&str| paragraph.contains("required-features = [\"host\"]");
    let kept: Vec<&str> =
        manifest.split("\n\n").filter(|paragraph| !needs_host(paragraph)).collect();
    let manifest = kept.join("\n\n");
    let feature = manifest.split_once("\nhost = [").and_then(|(before, rest)| {
        let (_, after) = rest.split_once("]\n")?;
        Some(format!("{before}\nhost = []\n{after}"))
    });
    feature.context("Cargo.toml has no feature `host` any more: adapt xtask/src/build/mutants.rs")
}

/// Puts a statement at the beginning of the anchor's body.
fn insert(source: &str, statement: &str) -> Result<String> {
    let body = source.find(ANCHOR).and_then(|start| Some(start + source[start..].find("{\n")? + 2));
    let Some(body) = body else {
        bail!(
            "src/early/main.rs has no `{}` any more: adapt ANCHOR in xtask/src/build/mutants.rs",
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
    fn the_manifest_loses_the_host_tool_and_nothing_else() -> Result<()> {
        let manifest = "[lib]\n\n[[bin]]\nname = \"a\"\nrequired-features = [\"host\"]\n\n[[bin]]\nname = \"b\"\n\n\
            [features]\nhost = [\n  \"dep:x\",\n]\nearly = []\n";
        let without = "[lib]\n\n[[bin]]\nname = \"b\"\n\n[features]\nhost = []\nearly = []\n";
        assert_eq!(without_host(manifest)?, without);
        assert!(without_host("[lib]\n").is_err());
        Ok(())
    }

    #[test]
    fn a_lost_anchor_is_told() {
        let error = insert("fn main() {\n}\n", "x();").map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("src/early/main.rs has no `fn work(` any more: adapt ANCHOR in \
                 xtask/src/build/mutants.rs"
                .to_owned())
        );
    }

    #[test]
    fn a_report_must_name_the_caller_too() {
        assert!(names("contains core::a::b, called by work", "core::a::b"));
        assert!(!names("contains core::a::b", "core::a::b"));
    }
}
