//! What lies between a runner and its front end: commands one way, events the other.
//!
//! Events are bounded by the bytes that lie unread: a slow reader slows the runner and takes no memory.
//! The runner waits through [`crate::wait`], for a command or for room, and for room only as long as
//! nobody tells it to stop; a front end looks, or waits for a while.

use std::collections::VecDeque;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::{Command, Event, Job};
use crate::wait;

/// Bytes of events that may lie unread, or one event that is larger. After a stop the rest of the step
/// comes on top.
pub const UNREAD_BYTES: usize = 16 << 20;

#[derive(Debug, Default)]
struct State {
    commands: VecDeque<(Job, Command)>,
    n_sent: u64,
    /// The job that is being done: events are its.
    job: Job,
    events: VecDeque<(Job, Event)>,
    unread_bytes: usize,
    /// The runner, where it waits.
    waker: Option<Waker>,
    /// No command will come any more.
    is_closed: bool,
    /// No event will be read any more.
    is_unheard: bool,
    /// No event will come any more.
    has_ended: bool,
}

#[derive(Debug, Default)]
pub(super) struct Wire {
    state: Mutex<State>,
    told: Condvar,
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and lets the other side look at it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.told.notify_all();
        result
    }

    /// Has the runner wait until `look` finds something.
    fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        wait::block_on(std::future::poll_fn(|context| {
            let mut state = self.lock();
            match look(&mut state) {
                Some(found) => Poll::Ready(found),
                None => {
                    state.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        }))
    }

    pub(super) fn send(&self, command: Command) -> Job {
        self.change(|state| {
            state.n_sent += 1;
            let job = Job(state.n_sent);
            state.commands.push_back((job, command));
            job
        })
    }

    /// Says that no command will come any more, and waits for the runner's end.
    pub(super) fn close(&self) {
        self.change(|state| state.is_closed = true);
        let ended = self.told.wait_while(self.lock(), |state| !state.has_ended);
        drop(ended);
    }

    /// The next command, whose job begins; `None` once none will come.
    pub(super) fn next(&self) -> Option<Command> {
        self.wait(|state| {
            if state.is_closed {
                return Some(None);
            }
            let (job, command) = state.commands.pop_front()?;
            state.job = job;
            Some(Some(command))
        })
    }

    /// A command that is not to wait for what runs: to stop, or, if `watches`, to record something else.
    pub(super) fn urgent(&self, watches: bool) -> Option<Command> {
        let mut state = self.lock();
        if state.is_closed {
            return Some(Command::Stop);
        }
        let at = state
            .commands
            .iter()
            .position(|(_, command)| match command {
                Command::Stop => true,
                Command::Watch(_) => watches,
                _ => false,
            })?;
        state.commands.remove(at).map(|(_, command)| command)
    }

    /// Tells an event of the job that is being done, when there is room.
    pub(super) fn tell(&self, event: Event) {
        let bytes = event.bytes();
        self.wait(|state| {
            let is_stop = |(_, command): &(Job, Command)| matches!(command, Command::Stop);
            let has_room = state.unread_bytes == 0 || state.unread_bytes + bytes <= UNREAD_BYTES;
            let is_over = state.is_closed || state.is_unheard;
            (has_room || is_over || state.commands.iter().any(is_stop)).then_some(())
        });
        self.change(|state| state.push(event));
    }

    /// The runner has ended, by this error if it was not meant to.
    pub(super) fn end(&self, error: Option<Event>) {
        self.change(|state| {
            state.has_ended = true;
            if let Some(error) = error {
                state.push(error);
            }
        });
    }
}

impl State {
    fn push(&mut self, event: Event) {
        if !self.is_unheard {
            self.unread_bytes += event.bytes();
            self.events.push_back((self.job, event));
        }
    }

    fn pop(&mut self) -> Option<(Job, Event)> {
        let (job, event) = self.events.pop_front()?;
        self.unread_bytes -= event.bytes();
        Some((job, event))
    }
}

/// What the runner says, each with the job that it is about. Dropping it lets the runner go on unheard.
#[derive(Debug)]
pub struct Events(pub(super) Arc<Wire>);

impl Events {
    /// The next event, if there is one.
    ///
    /// # Errors
    /// There is none now, or the runner has ended.
    pub fn try_recv(&self) -> Result<(Job, Event), TryRecvError> {
        self.0.change(|state| match state.pop() {
            None if state.has_ended => Err(TryRecvError::Disconnected),
            next => next.ok_or(TryRecvError::Empty),
        })
    }

    /// The next event, waited for.
    ///
    /// # Errors
    /// None has come for so long, or the runner has ended.
    pub fn recv_timeout(&self, patience: Duration) -> Result<(Job, Event), RecvTimeoutError> {
        let is_waiting = |state: &mut State| state.events.is_empty() && !state.has_ended;
        let told = &self.0.told;
        drop(told.wait_timeout_while(self.0.lock(), patience, is_waiting));
        self.try_recv().map_err(|error| match error {
            TryRecvError::Empty => RecvTimeoutError::Timeout,
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    /// Bytes of events that lie unread.
    pub fn unread_bytes(&self) -> usize {
        self.0.lock().unread_bytes
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.is_unheard = true;
            state.unread_bytes = 0;
            state.events.clear();
        });
    }
}
