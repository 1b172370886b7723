//! Programs at devices, without making a pod wait for the kernel.
//!
//! The first attachment of a link makes the kernel wait for its clock, and whoever changes devices meanwhile waits too.
//! So a new pod's programs run as filters at once, and links take their place when nothing has been attached for a while.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use loader::{AttachError, Datapath, Direction, Interface, Outcome, Program};

/// How long nothing must have been attached before links are made.
const QUIET: Duration = Duration::from_secs(2);

/// The programs of a pod's device, and at which side of its host end they are.
pub const POD: [(Program, Direction); 2] =
    [(Program::FromContainer, Direction::Ingress), (Program::ToContainer, Direction::Egress)];
/// The programs of `cilium_host`.
pub const HOST: [(Program, Direction); 2] =
    [(Program::FromHost, Direction::Egress), (Program::ToHost, Direction::Ingress)];
/// The programs of a device of the network outside.
pub const NETWORK: [(Program, Direction); 2] =
    [(Program::FromNetdev, Direction::Ingress), (Program::ToNetdev, Direction::Egress)];

/// Attaches, and sees to the links later.
#[derive(Debug)]
pub struct Attacher {
    datapath: Arc<Datapath>,
    provisional: Option<Sender<u32>>,
    thread: Option<JoinHandle<()>>,
}

impl Attacher {
    /// Starts the thread that makes links.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(datapath: Arc<Datapath>) -> std::io::Result<Self> {
        let (provisional, waiting) = channel();
        let thread = std::thread::Builder::new().name("links".into()).stack_size(128 << 10).spawn({
            let datapath = datapath.clone();
            move || make_links(&datapath, &waiting)
        })?;
        Ok(Self { datapath, provisional: Some(provisional), thread: Some(thread) })
    }

    /// Attaches programs to a device.
    ///
    /// # Errors
    /// When the device is gone or the kernel refuses.
    pub fn attach(&self, programs: [(Program, Direction); 2], device: &Interface) -> Result<(), AttachError> {
        for (program, direction) in programs {
            let attached = self.datapath.attach_soon(program, device, direction)?;
            tracing::debug!(device = %device.name, %program, outcome = ?attached.outcome, "attached");
            if attached.outcome == Outcome::Provisional
                && let Some(provisional) = &self.provisional
            {
                // The thread ends only with this.
                let _later = provisional.send(device.index);
            }
        }
        Ok(())
    }

    /// Detaches the programs of a pod's device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&self, ifindex: u32) -> Result<(), AttachError> {
        match Interface::by_index(ifindex) {
            Ok(device) => {
                for (program, direction) in POD {
                    self.datapath.detach(program, &device, direction)?;
                }
                Ok(())
            }
            // The device is gone, and the programs with it; their pins are not.
            Err(_) => self.datapath.remove_stale_links().map(drop),
        }
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        drop(self.provisional.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed by then.
            let _ended = thread.join();
        }
    }
}

fn make_links(datapath: &Datapath, provisional: &Receiver<u32>) {
    let mut waiting = BTreeSet::new();
    loop {
        let next = if waiting.is_empty() {
            provisional.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            provisional.recv_timeout(QUIET)
        };
        match next {
            Ok(device) => {
                waiting.insert(device);
            }
            // What still runs as a filter keeps running; the next agent makes the link.
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let Some(device) = waiting.pop_first() else { continue };
                make_link(datapath, device);
            }
        }
    }
}

fn make_link(datapath: &Datapath, ifindex: u32) {
    let Ok(device) = Interface::by_index(ifindex) else { return };
    for (program, direction) in POD {
        if let Err(why) = datapath.attach(program, &device, direction) {
            tracing::warn!(device = %device.name, %why, "the program goes on as a filter");
        }
    }
}
