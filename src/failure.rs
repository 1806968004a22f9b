//! What can go wrong with a function, a rule, or the room for them.

use crate::pci::Address;
#[cfg(doc)]
use crate::survey;
use crate::system::Fault;

/// Why a function is not as its rule wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An operation failed.
    Fault(Fault),
    /// `driver_override` was written, and holds something else.
    NotHeld(Address),
    /// A driver that was not asked for has the function still.
    StillBound(Address),
    /// There was no room for what had to be kept in mind.
    Exceeded(Limit),
}

/// A limit that a machine may exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`survey::MAX_FUNCTIONS`].
    Functions,
    /// [`survey::MAX_PATH_BREADTH`].
    PathBreadth,
    /// [`survey::MAX_PATH_ENDS`].
    PathEnds,
    /// [`survey::MAX_VARIANTS`].
    Variants,
    /// [`survey::MAX_OBSTACLES`].
    Obstacles,
}
