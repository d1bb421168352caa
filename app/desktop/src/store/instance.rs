//! Which instances of the program have a database open.
//!
//! Each holds a lock on a file of its own beside the database, which the system drops when the process
//! ends, however it ends. So a lock that can be taken tells an instance that crashed from one that is
//! still writing, without clocks, heartbeats or process ids. A second lock lets one instance at a time
//! open the database.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::error::{Result, StoreError};
use super::{now_ms, with_suffix};

/// How long opening waits for another instance that is opening the same database.
const OPENING_TIMEOUT: Duration = Duration::from_secs(3);

/// Held while a database is being opened.
pub(super) struct Opening {
    _lock: File,
}

/// Waits until no other instance is opening the database at `path`.
///
/// # Errors
/// The folder takes no files, or another instance needs longer than [`OPENING_TIMEOUT`].
pub(super) fn opening(path: &Path) -> Result<Opening> {
    let file = with_suffix(path, ".lock");
    let lock = create(&file)?;
    let started = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(Opening { _lock: lock }),
            Err(TryLockError::Error(error)) => return Err(StoreError::io(file, error)),
            Err(TryLockError::WouldBlock) if started.elapsed() > OPENING_TIMEOUT => {
                return Err(StoreError::Busy {
                    timeout_ms: OPENING_TIMEOUT.as_millis(),
                });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// This instance, as long as it has the database open.
pub(super) struct Instance {
    /// Tells it from every other one.
    pub token: String,
    /// `None` in memory, where nobody else can look.
    file: Option<(PathBuf, File)>,
}

impl Instance {
    /// An instance that nobody else can see.
    pub fn in_memory() -> Self {
        Self {
            token: token(),
            file: None,
        }
    }

    /// The instance of this token once more, for another connection of it.
    pub fn beside(token: &str) -> Self {
        Self {
            token: token.to_owned(),
            file: None,
        }
    }

    /// Tells the others that this instance has the database at `path` open.
    pub fn register(path: &Path, _opening: &Opening) -> Result<Self> {
        let token = token();
        let file = with_suffix(path, &format!("{INFIX}{token}"));
        let lock = create(&file)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                token,
                file: Some((file, lock)),
            }),
            Err(TryLockError::Error(error)) => Err(StoreError::io(file, error)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Io {
                path: file,
                source: std::io::Error::other("is locked by somebody else, expected a new file"),
            }),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Removed while the lock is held: otherwise somebody could take this for a crash.
        if let Some((file, _lock)) = &self.file
            && let Err(error) = std::fs::remove_file(file)
        {
            log::warn!("{}: {error}", file.display());
        }
    }
}

/// The instances found beside a database.
pub(super) struct Others {
    /// Tokens of those that are alive.
    pub alive: HashSet<String>,
    /// How many did not close the database. Their files are gone now.
    pub n_crashed: usize,
}

/// Looks which other instances have the database at `path` open, and clears away what crashed ones left.
pub(super) fn others(path: &Path, _opening: &Opening) -> Result<Others> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut others = Others {
        alive: HashSet::new(),
        n_crashed: 0,
    };
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(others);
    };
    let prefix = format!("{name}{INFIX}");
    let error = |error| StoreError::io(folder, error);
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        let file_name = entry.file_name();
        let Some(token) = file_name
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix))
        else {
            continue;
        };
        // One that cannot be looked at may be alive: the worst is that a message keeps its state.
        let is_dead = match File::open(entry.path()) {
            Ok(file) => file.try_lock().is_ok(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if is_dead {
            others.n_crashed += 1;
            let _ = std::fs::remove_file(entry.path());
        } else {
            others.alive.insert(token.to_owned());
        }
    }
    Ok(others)
}

/// Between the database's name and the token.
const INFIX: &str = ".instance-";

fn token() -> String {
    static N: AtomicU64 = AtomicU64::new(0);
    let n = N.fetch_add(1, Ordering::Relaxed);
    format!("{}-{}-{n}", now_ms(), std::process::id())
}

fn create(file: &Path) -> Result<File> {
    let created = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(file);
    created.map_err(|error| StoreError::NotWritable {
        path: file.parent().unwrap_or(file).to_owned(),
        problem: error.to_string(),
    })
}
