//! What was launched, and what it cost by formula.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shaders::Cost;

/// One launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Launched {
    /// Name of the kernel.
    pub op: &'static str,
    /// Its layer; `None` for embedding, final norm and head.
    pub layer: Option<usize>,
    /// By formula.
    pub cost: Cost,
    /// Time on the device, where launches were timed.
    pub duration: Option<Duration>,
}

/// Every launch since recording began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Whether each launch is waited for and timed.
    pub timed: bool,
    /// In the order of the forward pass.
    pub launches: Vec<Launched>,
    /// The largest buffer that was asked for meanwhile.
    pub largest_buffer_bytes: usize,
    /// Times that something was waited for and read back.
    pub n_reads: usize,
}

/// Writes down what a device is asked to do, while somebody wants to know.
#[derive(Default)]
pub(crate) struct Profiler(Mutex<Notes>);

#[derive(Default)]
struct Notes {
    profile: Option<Profile>,
    layer: Option<usize>,
}

impl Profiler {
    /// Says which layer the launches to come belong to.
    pub fn enter_layer(&self, layer: Option<usize>) {
        self.notes().layer = layer;
    }

    /// Records launches from now on; with `timed` each is waited for and timed.
    pub fn start(&self, timed: bool) {
        self.notes().profile = Some(Profile {
            timed,
            ..Profile::default()
        });
    }

    /// What was recorded, and no more recording.
    pub fn take(&self) -> Option<Profile> {
        self.notes().profile.take()
    }

    /// Does `work`, and tells what was launched. A recording that somebody else has started goes on.
    pub fn during<R>(&self, work: impl FnOnce() -> R) -> (R, Vec<Launched>) {
        let before = self.notes().profile.as_ref().map(|p| p.launches.len());
        if before.is_none() {
            self.start(false);
        }
        let result = work();
        let launches = match before {
            None => self.take().unwrap_or_default().launches,
            Some(before) => {
                let notes = self.notes();
                let profile = notes.profile.as_ref();
                profile.map_or(Vec::new(), |profile| profile.launches[before..].to_vec())
            }
        };
        (result, launches)
    }

    /// Whether launches are to be timed.
    pub fn is_timed(&self) -> bool {
        self.notes().profile.as_ref().is_some_and(|p| p.timed)
    }

    pub fn launched(&self, op: &'static str, cost: Cost, duration: Option<Duration>) {
        let mut notes = self.notes();
        let layer = notes.layer;
        if let Some(profile) = &mut notes.profile {
            profile.launches.push(Launched {
                op,
                layer,
                cost,
                duration,
            });
        }
    }

    pub fn allocated(&self, n_bytes: usize) {
        if let Some(profile) = &mut self.notes().profile {
            profile.largest_buffer_bytes = profile.largest_buffer_bytes.max(n_bytes);
        }
    }

    pub fn read(&self) {
        if let Some(profile) = &mut self.notes().profile {
            profile.n_reads += 1;
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // A thread that panicked left counters at worst.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All launches of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OpSum {
    /// Launches.
    pub n: usize,
    /// Summed costs.
    pub cost: Cost,
    /// Summed times.
    pub duration: Duration,
}

impl Profile {
    /// Sums per kernel, in the order of first launch.
    pub fn by_op(&self) -> Vec<(&'static str, OpSum)> {
        let mut sums: Vec<(&'static str, OpSum)> = Vec::new();
        for launched in &self.launches {
            let at = sums
                .iter()
                .position(|(op, _)| *op == launched.op)
                .unwrap_or_else(|| {
                    sums.push((launched.op, OpSum::default()));
                    sums.len() - 1
                });
            sums[at].1.add(launched);
        }
        sums
    }

    /// The sum over launches that `keep` keeps.
    pub fn total(&self, keep: impl Fn(&Launched) -> bool) -> OpSum {
        let mut sum = OpSum::default();
        for launched in self.launches.iter().filter(|launched| keep(launched)) {
            sum.add(launched);
        }
        sum
    }
}

impl OpSum {
    fn add(&mut self, launched: &Launched) {
        self.n += 1;
        self.cost += launched.cost;
        self.duration += launched.duration.unwrap_or_default();
    }

    /// Bytes read and written.
    pub fn bytes(&self) -> u64 {
        self.cost.read_bytes + self.cost.write_bytes
    }
}
