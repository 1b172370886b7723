//! Filters of the clsact qdisc, for kernels before 6.6.

use std::io;

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};

use super::{Direction, Outcome, Site};
use crate::error::AttachError;

/// Priority of our filter, and its handle: fixed, so that a later agent finds and replaces it.
const PRIORITY: u16 = 1;

fn handle() -> TcHandle {
    TcHandle::new(0, 1)
}

fn side(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// Replaces our filter, or adds it.
pub fn attach(classifier: &mut SchedClassifier, site: &Site<'_>) -> Result<Outcome, AttachError> {
    let name = &site.interface.name;
    match tc::qdisc_add_clsact(name) {
        Err(e) if !already_there(&e) => return Err(site.failed("adding the clsact qdisc for", io::Error::other(e))),
        _ => {}
    }
    let old = SchedClassifierLink::attached(name, side(site.direction), PRIORITY, handle(), None)
        .map_err(|source| AttachError::Device { device: name.clone(), source })?;
    let (id, outcome) = match classifier.attach_to_link(old) {
        Ok(id) => (id, Outcome::Replaced),
        Err(_nothing_to_replace) => {
            let options = NlOptions { priority: PRIORITY, handle: handle(), ..NlOptions::default() };
            let id = classifier
                .attach_with_options(name, side(site.direction), TcAttachOptions::Netlink(options))
                .map_err(|e| site.failed("attaching", system(e)))?;
            (id, Outcome::Attached)
        }
    };
    let link = classifier.take_link(id).map_err(|e| site.failed("keeping", system(e)))?;
    // Dropping the link would remove the filter, which must outlive this process.
    std::mem::forget(link);
    Ok(outcome)
}

/// Removes our filter; says whether there was one.
pub fn detach(site: &Site<'_>) -> Result<bool, AttachError> {
    match tc::qdisc_detach_program(&site.interface.name, side(site.direction), site.program.name()) {
        Ok(()) => Ok(true),
        // No filter, no qdisc, or no device: nothing to detach.
        Err(_) => Ok(false),
    }
}

fn already_there(error: &TcError) -> bool {
    matches!(error, TcError::NetlinkError(e) if e.raw_os_error() == Some(libc::EEXIST))
}

fn system(error: ProgramError) -> io::Error {
    io::Error::other(error)
}
