// SPDX-License-Identifier: MIT OR Apache-2.0
//! The canonical text of a rule, which the grammar reads as the same rule.

use core::fmt;

use crate::rule::{Action, Driver, Expansion, Ids, Place, Rule, Selector, Statement};
use crate::text::{Escaped, write_hex};

impl fmt::Display for Statement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Debug => f.write_str("debug"),
            Self::Rule(rule) => rule.fmt(f),
        }
    }
}

impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.action == Action::Exclude {
            f.write_str("!")?;
        }
        if self.may_be_absent {
            f.write_str("?")?;
        }
        self.selector.fmt(f)?;
        if let Some(id) = self.guard {
            write!(f, "@{id}")?;
        }
        f.write_str(match self.expansion {
            Some(Expansion::Slot) => "+slot",
            Some(Expansion::Group) => "+group",
            None => "",
        })?;
        match self.action {
            Action::Exclude | Action::Take(Driver::DEFAULT) => Ok(()),
            Action::Take(Driver::Named(name)) => write!(f, "={}", Escaped(name)),
            Action::Take(Driver::Nobody) => f.write_str("=none"),
            Action::Take(Driver::Auto) => f.write_str("=auto"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { domain, bus, place } => {
                write_hex(f, *domain, 4)?;
                f.write_str(":")?;
                write_hex(f, (*bus).into(), 2)?;
                write!(f, ":{place}")
            }
            Self::Path { start, hops } => {
                start.fmt(f)?;
                hops.iter().try_for_each(|place| write!(f, "/{place}"))
            }
            Self::Ids(ids) => ids.fmt(f),
            Self::Class { prefix, digits } => {
                f.write_str("class:")?;
                write_hex(f, *prefix, (*digits).into())
            }
            Self::BootVga => f.write_str("boot_vga"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.device.into(), 2)?;
        match self.function {
            Some(function) => {
                f.write_str(".")?;
                write_hex(f, function.into(), 1)
            }
            None => f.write_str(".*"),
        }
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |f: &mut fmt::Formatter<'_>, id: Option<u16>| match id {
            Some(id) => write_hex(f, id.into(), 4),
            None => f.write_str("*"),
        };
        id(f, self.vendor)?;
        f.write_str(":")?;
        id(f, self.device)?;
        if self.subvendor.is_none() && self.subdevice.is_none() && self.class.is_none() {
            return Ok(());
        }
        f.write_str(":")?;
        id(f, self.subvendor)?;
        f.write_str(":")?;
        id(f, self.subdevice)?;
        let Some(class) = self.class else { return Ok(()) };
        write!(f, ":{class}")?;
        if self.mask == 0 {
            return Ok(());
        }
        f.write_str(":")?;
        write_hex(f, self.mask, 6)
    }
}
