//! What was launched, and what it cost by formula.

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
