//! The drive loop of production.

use std::collections::VecDeque;
use std::fmt;

use machine::{Driven, Instant, Machine};
use tokio::sync::{mpsc, oneshot};

use crate::clock::{now, sleep_until};

/// Inputs served in one go before the loop lets other tasks run.
const BURST: usize = 64;

/// Where effects go.
pub trait World<M: Machine> {
    /// Carries out one effect, or starts to. An outcome known at once is pushed to `outcomes`, and the machine gets
    /// it before any input from outside; one that takes time comes through a [`Handle`].
    fn apply(&mut self, now: Instant, effect: M::Effect, outcomes: &mut VecDeque<M::Input>);

    /// Called when nothing more is to be served for the moment: the place to publish what readers see.
    fn settled(&mut self, now: Instant, machine: &M) {
        let _ = (now, machine);
    }
}

/// Something to be looked up in the machine, between two inputs.
type Look<M> = Box<dyn FnOnce(&M) + Send>;

enum Turn<M: Machine> {
    Input(M::Input),
    Look(Look<M>),
}

/// The loop has ended, so nobody will answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the agent is shutting down")
    }
}
impl std::error::Error for Closed {}

/// Feeds a drive loop.
pub struct Handle<M: Machine> {
    sender: mpsc::Sender<Turn<M>>,
}

impl<M: Machine> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}
impl<M: Machine> fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("free", &self.sender.capacity()).finish()
    }
}

impl<M: Machine> Handle<M> {
    /// Hands over an input; waits while the queue is full.
    ///
    /// # Errors
    /// When the loop has ended.
    pub async fn send(&self, input: M::Input) -> Result<(), Closed> {
        self.sender.send(Turn::Input(input)).await.map_err(|_| Closed)
    }
    /// Hands over an input from a thread that is none of the runtime's; waits while the queue is full. After the loop has
    /// ended the input goes nowhere.
    pub fn send_blocking(&self, input: M::Input) {
        // Nobody is left who would want to know.
        let _closed = self.sender.blocking_send(Turn::Input(input));
    }
    /// Looks something up in the machine, in its turn. The closure must be quick: nothing else is served meanwhile.
    ///
    /// # Errors
    /// When the loop has ended.
    pub async fn look<T: Send + 'static>(&self, look: impl FnOnce(&M) -> T + Send + 'static) -> Result<T, Closed> {
        let (answer, answered) = oneshot::channel();
        let turn = Turn::Look(Box::new(move |machine: &M| {
            // Whoever asked may have gone; then there is nobody to tell.
            let _gone = answer.send(look(machine));
        }));
        self.sender.send(turn).await.map_err(|_| Closed)?;
        answered.await.map_err(|_| Closed)
    }
}

/// The receiving end of a [`Handle`].
pub struct Queue<M: Machine> {
    receiver: mpsc::Receiver<Turn<M>>,
}

impl<M: Machine> fmt::Debug for Queue<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

/// A queue of at most `bound` inputs.
pub fn queue<M: Machine>(bound: usize) -> (Handle<M>, Queue<M>) {
    let (sender, receiver) = mpsc::channel(bound);
    (Handle { sender }, Queue { receiver })
}

/// Drives a machine until every [`Handle`] is gone or `stop` completes; what was queued by then is still served.
pub async fn drive<M: Machine, W: World<M>>(
    machine: M,
    world: &mut W,
    queue: Queue<M>,
    stop: impl Future<Output = ()>,
) -> Driven<M> {
    let mut driven = Driven::new(machine);
    let mut receiver = queue.receiver;
    let mut stop = std::pin::pin!(stop);
    let mut outcomes = VecDeque::new();
    serve(&mut driven, world, &mut outcomes, None);
    world.settled(driven.now(), driven.machine());
    loop {
        let due = driven.next_deadline();
        let turn = tokio::select! {
            biased;
            () = &mut stop, if !receiver.is_closed() => {
                // From here on nobody can add, so the rest of the queue is finite.
                receiver.close();
                continue;
            }
            turn = receiver.recv() => match turn {
                Some(turn) => Some(turn),
                None => return driven,
            },
            () = sleep_until(due) => None,
        };
        take(&mut driven, world, &mut outcomes, turn);
        for _ in 1..BURST {
            match receiver.try_recv() {
                Ok(turn) => take(&mut driven, world, &mut outcomes, Some(turn)),
                Err(_) => break,
            }
        }
        world.settled(driven.now(), driven.machine());
        tokio::task::yield_now().await;
    }
}

fn take<M: Machine, W: World<M>>(
    driven: &mut Driven<M>,
    world: &mut W,
    outcomes: &mut VecDeque<M::Input>,
    turn: Option<Turn<M>>,
) {
    match turn {
        Some(Turn::Look(look)) => look(driven.machine()),
        Some(Turn::Input(input)) => serve(driven, world, outcomes, Some(input)),
        None => serve(driven, world, outcomes, None),
    }
}

/// One input (or a deadline) with all outcomes it leads to at once.
fn serve<M: Machine, W: World<M>>(
    driven: &mut Driven<M>,
    world: &mut W,
    outcomes: &mut VecDeque<M::Input>,
    mut input: Option<M::Input>,
) {
    loop {
        let at = now();
        driven.step(at, input.take(), |effect| world.apply(at, effect, outcomes));
        input = outcomes.pop_front();
        if input.is_none() {
            return;
        }
    }
}
