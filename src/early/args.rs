// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arguments of the early binary.

use core::ffi::CStr;
use core::fmt;

use vfio_override::grammar::{self, SyntaxError};
use vfio_override::pci::Address;
use vfio_override::text::{Decimal, Quoted};

/// What a run depends on.
pub struct Options {
    pub sysfs: &'static CStr,
    pub cmdline: &'static CStr,
    pub kmsg: &'static CStr,
    pub modprobe: bool,
    pub device: Option<Address>,
}

impl Options {
    /// The defaults, which fit a running kernel. PID 1 always has these.
    pub const DEFAULT: Self = Self {
        sysfs: c"/sys",
        cmdline: c"/proc/cmdline",
        kmsg: c"/dev/kmsg",
        modprobe: false,
        device: None,
    };
}

/// What is wrong with the arguments.
pub enum UsageError {
    Unknown(&'static CStr),
    NoValue(&'static CStr),
    Device(&'static CStr, SyntaxError),
}

/// Reads the arguments after the program's name; `None` if they ask for the version.
pub fn parse(args: &mut dyn Iterator<Item = &'static CStr>) -> Result<Option<Options>, UsageError> {
    let mut options = Options::DEFAULT;
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or(UsageError::NoValue(option));
        match option.to_bytes() {
            b"--modprobe" => options.modprobe = true,
            b"--version" => return Ok(None),
            b"--sysfs" => options.sysfs = value()?,
            b"--cmdline" => options.cmdline = value()?,
            b"--kmsg" => options.kmsg = value()?,
            b"--device" => {
                let text = value()?;
                let address = grammar::parse_address(text.to_bytes());
                options.device = Some(address.map_err(|error| UsageError::Device(text, error))?);
            }
            _ => return Err(UsageError::Unknown(option)),
        }
    }
    Ok(Some(options))
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vfio-override-early: ")?;
        match self {
            Self::Unknown(option) => write!(f, "{} is no option", Quoted(option.to_bytes()))?,
            Self::NoValue(option) => write!(f, "{} needs a value", Quoted(option.to_bytes()))?,
            Self::Device(text, SyntaxError { column, expected }) => {
                let (text, column) = (Quoted(text.to_bytes()), Decimal(*column));
                write!(f, "--device {text}: column {column}: expected ")?;
                f.write_str(expected)?;
            }
        }
        f.write_str(
            "\nusage: vfio-override-early [--sysfs DIR] [--cmdline FILE] [--kmsg FILE] \
             [--modprobe] [--device ADDRESS] [--version]",
        )
    }
}
