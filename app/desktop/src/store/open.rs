//! Opening a database: new, ours, somebody else's, of a later version, or damaged.
//!
//! One instance at a time opens. It first looks at the file without the right to write, so that what is
//! refused stays as it is to the byte.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::{Result, StoreError};
use super::instance::{self, Instance};
use super::salvage::{self, Salvaged};
use super::{BUSY_TIMEOUT, Store, nodes, schema, with_suffix};

/// A database up to this size is checked page by page each time it is opened: 37 ms, measured at 0.55 ms a
/// megabyte with the file in memory already. A larger one
/// only after an instance crashed.
const CHECK_BYTES: u64 = 64 << 20;

/// How long opening waits for an instance that is writing.
const OPEN_BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// What the user should be told after opening.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The database was damaged. It lies under a new name, and a new one holds what could be read.
    SetAside {
        /// The damaged database.
        file: PathBuf,
        /// What was found.
        problem: String,
        /// Conversations that could be read.
        n_conversations: usize,
        /// Messages in them.
        n_messages: usize,
    },
    /// Answers that a crash cut off. They end with what was written.
    Stopped {
        /// How many.
        n_messages: usize,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetAside {
                file,
                problem,
                n_conversations,
                n_messages,
            } => write!(
                f,
                "the database of conversations was damaged ({problem}) and is kept as {}; \
                 {n_conversations} conversations with {n_messages} messages could be read and are here",
                file.display()
            ),
            Self::Stopped { n_messages: 1 } => {
                write!(
                    f,
                    "the program ended during an answer; what was written is kept"
                )
            }
            Self::Stopped { n_messages } => write!(
                f,
                "the program ended during {n_messages} answers; what was written is kept"
            ),
        }
    }
}

/// What lies at a path.
pub(super) enum Found {
    /// Nothing, or an empty database.
    New,
    /// A database of ours with this many bytes.
    Ours { n_bytes: u64 },
    /// Damage, in words.
    Damaged(String),
}

impl Store {
    /// A database that is gone when it is dropped.
    ///
    /// # Errors
    /// Out of memory.
    pub fn in_memory() -> Result<Self> {
        let mut connection = Connection::open_in_memory()?;
        configure(&connection)?;
        schema::migrate(&mut connection)?;
        Ok(Self {
            connection,
            instance: Instance::in_memory(),
            path: None,
            is_search_repaired: false,
        })
    }

    /// Opens the database at `path`, or makes one there, folders included. An older one is brought to
    /// [`VERSION`](super::VERSION). A damaged one is renamed to `NAME.damaged-YYYYMMDD-HHMMSS`, and what can be
    /// read of it goes into a new one. Answers that a crash cut off are marked as stopped. What the user
    /// should know of this comes back as notices.
    ///
    /// Another instance may have it open at the same time. Beside it lie SQLite's `-wal` and `-shm`, an
    /// empty `.lock`, and an empty `.instance-…` for each instance.
    ///
    /// # Errors
    /// [`StoreError::Newer`] and [`StoreError::Foreign`] leave the file as it is; so does
    /// [`StoreError::DamagedInUse`]. [`StoreError::NotWritable`], [`StoreError::Full`],
    /// [`StoreError::Busy`] where another instance needs more than a few seconds.
    pub fn open(path: &Path) -> Result<(Self, Vec<Notice>)> {
        // An absolute path is never taken for one of SQLite's URIs.
        let path = &std::path::absolute(path).map_err(|error| StoreError::io(path, error))?;
        let folder = path.parent().unwrap_or(path);
        std::fs::create_dir_all(folder).map_err(|error| StoreError::NotWritable {
            path: folder.to_owned(),
            problem: error.to_string(),
        })?;
        // A link is followed, so that SQLite's own files and ours lie beside the file that is meant.
        let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        if path.is_dir() {
            let problem = "is a folder, expected a file or nothing";
            return Err(StoreError::io(path, std::io::Error::other(problem)));
        }

        // Before SQLite looks: it gives the files beside a database the same mode, and those would stay.
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().readonly()) {
            return Err(not_writable(path, "the file may only be read"));
        }
        let opening = instance::opening(path)?;
        let others = instance::others(path, &opening)?;
        let found = match look(path)? {
            Found::Ours { n_bytes } if n_bytes <= CHECK_BYTES || others.n_crashed > 0 => {
                check(path)?
            }
            found => found,
        };
        let mut notices = Vec::new();
        let mut set_aside_and_salvage = |mut problem: String| {
            if !others.alive.is_empty() {
                let path = path.clone();
                return Err(StoreError::DamagedInUse { path, problem });
            }
            let file = set_aside(path)?;
            let (mut connection, _) = connect(path, &others.alive)?;
            let salvaged = salvage::salvage(&file, &mut connection).unwrap_or_else(|error| {
                problem += &format!("; taking over what is in it failed: {error}");
                Salvaged::default()
            });
            let notice = Notice::SetAside {
                file,
                problem,
                n_conversations: salvaged.n_conversations,
                n_messages: salvaged.n_messages,
            };
            log::warn!("{notice}");
            notices.push(notice);
            Ok((connection, 0))
        };
        let (connection, n_messages) = match found {
            Found::Damaged(problem) => set_aside_and_salvage(problem)?,
            Found::New | Found::Ours { .. } => match connect(path, &others.alive) {
                Err(StoreError::Damaged(problem)) => set_aside_and_salvage(problem)?,
                connected => connected?,
            },
        };

        let instance = Instance::register(path, &opening)?;
        if n_messages > 0 {
            notices.push(Notice::Stopped { n_messages });
        }
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let store = Self {
            connection,
            instance,
            path: Some(path.clone()),
            is_search_repaired: false,
        };
        Ok((store, notices))
    }
}

/// The way to one more connection to an open database, for another thread.
pub struct Beside {
    path: Option<PathBuf>,
    token: String,
}

impl Store {
    /// The way to one more connection to this database, for what takes long on another thread.
    pub fn beside(&self) -> Beside {
        Beside {
            path: self.path.clone(),
            token: self.instance.token.clone(),
        }
    }
}

impl Beside {
    /// The database, by a connection of its own, which waits longer for others. It belongs to the same
    /// instance of the program.
    ///
    /// # Errors
    /// It cannot be opened: the file is gone, or it is in memory, where nobody else can look.
    pub fn open(&self) -> Result<Store> {
        let Some(path) = &self.path else {
            let problem = "there is one connection to a database in memory, expected a file";
            return Err(StoreError::io(":memory:", std::io::Error::other(problem)));
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        configure(&connection)?;
        Ok(Store {
            connection,
            instance: Instance::beside(&self.token),
            path: Some(path.clone()),
            is_search_repaired: false,
        })
    }
}

fn not_writable(path: &Path, problem: &str) -> StoreError {
    StoreError::NotWritable {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

fn configure(connection: &Connection) -> Result<()> {
    connection.busy_timeout(OPEN_BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "foreign_keys", true)?;
    // With a WAL a kill loses nothing that was committed; a power cut may lose the last seconds, but
    // damages nothing.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    // Views, triggers and defaults of a file that somebody else made run nothing of ours.
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(())
}

/// Opens for writing, with a WAL and all tables, and marks as stopped what no instance that is `alive` is
/// writing; returns how many messages that were.
fn connect(path: &Path, alive: &HashSet<String>) -> Result<(Connection, usize)> {
    connect_as_is(path, alive).map_err(|error| match error {
        StoreError::Sqlite(error)
            if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied)
            ) =>
        {
            not_writable(path, &error.to_string())
        }
        error => error,
    })
}

fn connect_as_is(path: &Path, alive: &HashSet<String>) -> Result<(Connection, usize)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    if connection.is_readonly("main")? {
        return Err(not_writable(path, "the file may only be read"));
    }
    configure(&connection)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let problem = format!("SQLite has journal mode {mode:?} there, expected \"wal\"");
        return Err(not_writable(path, &problem));
    }
    let before = schema::migrate(&mut connection)?;
    if 0 < before && before < schema::VERSION {
        let after = schema::VERSION;
        log::info!("{}: schema version {before} is now {after}", path.display());
    }
    let n_stopped = match nodes::stop_orphans(&mut connection, alive) {
        Err(StoreError::Damaged(_)) => {
            schema::rebuild_search(&mut connection)?;
            nodes::stop_orphans(&mut connection, alive)?
        }
        n_stopped => n_stopped?,
    };
    Ok((connection, n_stopped))
}

/// 0 where nothing is.
pub(super) fn n_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn open_to_look(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(OPEN_BUSY_TIMEOUT)?;
    Ok(connection)
}

/// What lies at `path`, by its header and its list of tables. Nothing is changed.
fn look(path: &Path) -> Result<Found> {
    match n_bytes(path) {
        // SQLite would delete the log of a database that is empty.
        0 if n_bytes(&with_suffix(path, "-wal")) > 0 => {
            return Ok(Found::Damaged(
                "the file is empty, but its log is not".into(),
            ));
        }
        0 => return Ok(Found::New),
        // SQLite takes it for an empty one.
        1 => return Ok(Found::Damaged("the file holds a single byte".into())),
        _ => {}
    }
    let header = open_to_look(path).and_then(|connection| {
        let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i32>(0));
        Ok((
            number("PRAGMA application_id")?,
            number("PRAGMA user_version")?,
            number("SELECT count(*) FROM sqlite_schema")?,
        ))
    });
    let (application_id, version, n_objects) = match header.map_err(StoreError::from) {
        Ok(header) => header,
        Err(StoreError::Damaged(problem)) => return Ok(Found::Damaged(problem)),
        Err(StoreError::Sqlite(error)) => {
            return Err(StoreError::NotWritable {
                path: path.to_owned(),
                problem: error.to_string(),
            });
        }
        Err(error) => return Err(error),
    };
    if application_id == 0 && version == 0 && n_objects == 0 {
        return Ok(Found::New);
    }
    if application_id != schema::APPLICATION_ID {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            found: application_id,
            expected: schema::APPLICATION_ID,
        });
    }
    if version > schema::VERSION {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: version,
            supported: schema::VERSION,
        });
    }
    if version < 1 {
        let problem = format!("schema version is {version}, expected at least 1");
        return Ok(Found::Damaged(problem));
    }
    Ok(Found::Ours {
        n_bytes: n_bytes(path),
    })
}

/// Reads every page of every table. Table by table, since for a whole database SQLite would also index
/// all texts again in memory, to compare. With `sqlite_schema` it checks the list of free pages, too.
pub(super) fn check(path: &Path) -> Result<Found> {
    let problem = open_to_look(path).and_then(|connection| {
        let mut names = connection.prepare(
            "SELECT 'sqlite_schema' UNION ALL
                 SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0",
        )?;
        let names = names.query_map([], |row| row.get::<_, String>(0))?;
        for name in names {
            let name = name?;
            let quoted = name.replace('"', "\"\"");
            let sql = format!("PRAGMA quick_check(\"{quoted}\")");
            let answer: String = connection.query_row(&sql, [], |row| row.get(0))?;
            if answer != "ok" {
                return Ok(Some(format!("table {name}: {answer}")));
            }
        }
        Ok(None)
    });
    match problem.map_err(StoreError::from) {
        Ok(None) => Ok(Found::Ours {
            n_bytes: n_bytes(path),
        }),
        Ok(Some(problem)) | Err(StoreError::Damaged(problem)) => Ok(Found::Damaged(problem)),
        Err(error) => Err(error),
    }
}

/// Renames a database and what SQLite keeps beside it; returns its new name, which nothing had before.
fn set_aside(path: &Path) -> Result<PathBuf> {
    const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
    let time: String = Connection::open_in_memory()?.query_row(
        "SELECT strftime('%Y%m%d-%H%M%S', 'now', 'localtime')",
        [],
        |row| row.get(0),
    )?;
    let is_free = |target: &Path| {
        let there = |path: &Path| path.symlink_metadata().is_ok();
        !there(target)
            && BESIDE
                .iter()
                .all(|beside| !there(&with_suffix(target, beside)))
    };
    let mut target = with_suffix(path, &format!(".damaged-{time}"));
    let mut n = 1;
    while !is_free(&target) {
        n += 1;
        target = with_suffix(path, &format!(".damaged-{time}-{n}"));
    }
    // The database last: a kill in between must not leave a log without one, which SQLite would delete.
    for suffix in BESIDE.into_iter().chain([""]) {
        let from = with_suffix(path, suffix);
        match std::fs::rename(&from, with_suffix(&target, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io(from, error));
            }
            _ => {}
        }
    }
    Ok(target)
}
