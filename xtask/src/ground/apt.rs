// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Debian's package lists below the target directory. The system's own are neither read nor changed, no root is
//! needed, and the suite need not be the system's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::ground::command;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::workspace::Workspace;

const MIRROR: &str = "http://deb.debian.org";

/// The suite that gets its security updates as any others.
const UNSTABLE: &str = "sid";

/// How old lists may be before newer ones are asked for.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// The lists of one suite for one architecture.
pub struct Lists {
    directory: PathBuf,
    suite: String,
    architecture: String,
}

impl Lists {
    /// Those of a suite such as `trixie`, for an architecture as Debian calls it, such as `arm64`. They are fetched if
    /// there are none yet, and again if they are older than a day and the mirror can be reached.
    pub fn of(workspace: &Workspace, suite: &str, architecture: &str) -> Result<Self> {
        if setup::program("apt-get").is_none() {
            bail!("Debian's packages are fetched with apt-get, and there is none here");
        }
        setup::ensure(&[&setup::KEYRING])?;
        let directory = workspace.scratch("apt")?.join(format!("{suite}-{architecture}"));
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part))
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        let lists =
            Self { directory, suite: suite.to_owned(), architecture: architecture.to_owned() };
        match lists.age() {
            None => lists.update()?,
            Some(age) if age > FRESH => {
                if let Err(error) = lists.update() {
                    progress::note(format_args!(
                        "the lists of {suite} stay as they are: {error:#}"
                    ));
                }
            }
            Some(_) => {}
        }
        Ok(lists)
    }

    /// One of apt's programs, which knows these lists and nothing that is installed.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let directory = self.directory.display();
        for option in [
            format!("Dir::Etc::SourceList={directory}/sources.list"),
            format!("Dir::State::Lists={directory}/lists"),
            format!("Dir::Cache={directory}/cache"),
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures={}", self.architecture),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            "Dir::State::status=/dev/null".to_owned(),
            "APT::Default-Release=".to_owned(),
            // The user _apt need not reach the target directory.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// The packages that a package depends on.
    pub fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let text = command::stdout(self.command("apt-cache").args(["depends", package]))
            .with_context(|| format!("no package {package} in {}", self.suite))?;
        Ok(parse_dependencies(&text))
    }

    /// Puts the packages' files into a directory, without what they depend on.
    pub fn download(&self, packages: &[String], into: &Path) -> Result<()> {
        let mut download = self.command("apt-get");
        command::check(download.arg("download").args(packages).current_dir(into)).map(drop)
    }

    /// How long ago the lists were fetched; none if they never were.
    fn age(&self) -> Option<Duration> {
        let fetched = fs::metadata(self.stamp()).and_then(|metadata| metadata.modified()).ok()?;
        // A clock that went back makes no list old.
        Some(SystemTime::now().duration_since(fetched).unwrap_or_default())
    }

    fn stamp(&self) -> PathBuf {
        self.directory.join("fetched")
    }

    fn update(&self) -> Result<()> {
        let write = |path: PathBuf, text: &str| {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write(self.directory.join("sources.list"), &sources(&self.suite, &setup::KEYRING.path()?))?;
        progress::phase(format!("fetch the package lists of {}", self.suite), || {
            command::check(self.command("apt-get").args(["update", "--error-on=any"]))
        })?;
        write(self.stamp(), "")
    }
}

fn sources(suite: &str, keyring: &Path) -> String {
    let source = |archive: &str, suite: &str| {
        format!("deb [signed-by={}] {MIRROR}/{archive} {suite} main\n", keyring.display())
    };
    let mut text = source("debian", suite);
    if suite != UNSTABLE {
        text += &source("debian-security", &format!("{suite}-security"));
    }
    text
}

fn parse_dependencies(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim_start_matches([' ', '|']).strip_prefix("Depends: "))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_cache_depends_is_read() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n |Depends: kmod\n  \
                    PreDepends: linux-base\n  Conflicts: x\n    dracut\n";
        assert_eq!(parse_dependencies(text), ["linux-image-6.1.0-56-amd64", "kmod"]);
    }

    #[test]
    fn a_stable_suite_has_its_security_updates() {
        let suites = |suite| {
            let text = sources(suite, Path::new("/k"));
            text.lines().map(|line| line.split(' ').skip(2).collect::<String>()).collect::<Vec<_>>()
        };
        assert_eq!(suites("sid"), ["http://deb.debian.org/debiansidmain"]);
        assert_eq!(
            suites("trixie"),
            [
                "http://deb.debian.org/debiantrixiemain",
                "http://deb.debian.org/debian-securitytrixie-securitymain"
            ]
        );
    }
}
