//! Files written whole or not at all, and over nothing that somebody needs.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::time::Duration;

use engine::file::{
    MASKS, MESSAGES, Output, ROUTES, SVG, TRACE, check_outputs, model_folder, write_whole,
    write_whole_with,
};

/// A file of this kind, as small as it gets.
fn record_of(kind: &str) -> Vec<u8> {
    let entry = format!(r#"{{\"kind\":\"{kind}\"}}"#);
    let header = format!(r#"{{"__metadata__":{{"sparsight":"{entry}"}}}}"#);
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

fn names(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn folders_stay_and_files_are_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    // As long as names get.
    let file = folder.path().join("f".repeat(255));
    write_whole(&file, b"one").unwrap();
    write_whole(&file, b"two").unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"two");
    let error = write_whole(folder.path(), b"three").unwrap_err();
    assert!(error.to_string().contains("expected a file"), "{error}");
    assert!(write_whole(&folder.path().join("none/file"), b"four").is_err());
    assert!(write_whole(&file.join("in a file"), b"five").is_err());
    assert_eq!(names(folder.path()).len(), 1);
}

#[test]
fn a_write_that_fails_at_any_byte_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    std::fs::write(&old, b"kept").unwrap();
    for n_bytes in [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
        for path in [&old, &new] {
            let result = write_whole_with(path, |out| {
                out.write_all(&vec![7; n_bytes])?;
                Err(ErrorKind::StorageFull.into())
            });
            let error = result.unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert_eq!(names(folder.path()), ["old"], "after {n_bytes} bytes");
            assert_eq!(std::fs::read(&old).unwrap(), b"kept");
        }
    }
}

#[test]
fn parts_of_killed_processes_are_cleared_away_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let part = |name: &str, age_s: u64| {
        let file = File::create(folder.path().join(name)).unwrap();
        let made = std::time::SystemTime::now() - Duration::from_secs(age_s);
        file.set_modified(made).unwrap();
        file
    };
    drop(part(".sparsight.1.0.part", 3600));
    drop(part(".sparsight.1.1.part", 10));
    drop(part(".stranger.part", 3600));
    let held = part(".sparsight.1.2.part", 3600);
    held.lock().unwrap();
    write_whole(&folder.path().join("file"), b"one").unwrap();
    let left = [
        ".sparsight.1.1.part",
        ".sparsight.1.2.part",
        ".stranger.part",
        "file",
    ];
    assert_eq!(names(folder.path()), left);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_permissions_kept() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    std::fs::write(&file, b"one").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    write_whole(&link, b"two").unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"two");
    assert!(link.is_symlink());
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Every kind of file in every kind's place, with force and without.
#[test]
fn only_a_file_of_the_same_kind_is_overwritten_and_only_with_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let long_header = [&100_000_001_u64.to_le_bytes()[..], &[b' '; 64]].concat();
    let contents: [(Option<&str>, &[u8]); 13] = [
        (Some("a trace"), &record_of("trace")),
        (Some("a record of routes"), &record_of("routes")),
        (Some("a record of masks"), &record_of("masks")),
        (Some("a conversation"), b"[]"),
        (
            Some("a conversation"),
            br#" [{"role": "user", "content": "x"}]"#,
        ),
        (
            Some("a conversation"),
            br#"{"messages": [{"role": "user"}], "tools": []}"#,
        ),
        (Some("an SVG picture"), b"<?xml version=\"1.0\"?>\n<svg/>"),
        (None, &record_of("recording")),
        (None, b"notes"),
        (None, br#"[{"role": "user"}, 3]"#),
        (None, br#"{"model_type": "deepseek_v32"}"#),
        (None, &[0, 1]),
        (None, &long_header),
    ];
    for (held, bytes) in contents {
        std::fs::write(&path, bytes).unwrap();
        for kind in [TRACE, ROUTES, MASKS, MESSAGES, SVG] {
            for force in [false, true] {
                let result = check_outputs(&[Output { path: &path, kind }], &[], force);
                let is_own = held == Some(kind.name);
                assert_eq!(
                    result.is_ok(),
                    is_own && force,
                    "{held:?} for {}",
                    kind.name
                );
                if let Err(error) = result {
                    let word = if is_own { "--force" } else { "is not" };
                    assert!(error.to_string().contains(word), "{error}");
                }
            }
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
    // Nothing is lost with an empty file, or with none.
    std::fs::write(&path, b"").unwrap();
    let new = folder.path().join("new");
    for path in [path.as_path(), &new, Path::new("new")] {
        check_outputs(&[Output { path, kind: TRACE }], &[], false).unwrap();
    }
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn nothing_is_written_into_a_model_folder() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    std::fs::create_dir_all(model.join("sub/deep")).unwrap();
    let out = |path: &Path| check_outputs(&[Output { path, kind: TRACE }], &[], true);
    let places = [
        "model.safetensors",
        "new",
        "sub/new",
        "sub/deep/new",
        "sub/../new",
    ];
    // A config of some program beside a trace makes no model; weights or an index do.
    std::fs::write(model.join("config.json"), "{}").unwrap();
    std::fs::write(model.join("a.safetensors"), record_of("trace")).unwrap();
    for place in places {
        out(&model.join(place)).unwrap();
    }
    for weights in [
        "model.safetensors",
        "model.safetensors.index.json",
        "b.safetensors",
    ] {
        std::fs::write(model.join(weights), "{}").unwrap();
        for place in places {
            let error = out(&model.join(place)).unwrap_err().to_string();
            assert!(error.contains("the model folder"), "{place}: {error}");
        }
        assert_eq!(
            model_folder(&model.join("no/such/folder")),
            model.canonicalize().ok()
        );
        std::fs::remove_file(model.join(weights)).unwrap();
    }
    std::fs::write(model.join("model.safetensors"), "{}").unwrap();
    out(&root.path().join("new")).unwrap();
    assert_eq!(model_folder(&root.path().join("new/folder")), None);
    #[cfg(unix)]
    {
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&model, &link).unwrap();
        let error = out(&link.join("new")).unwrap_err().to_string();
        assert!(error.contains("model folder"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn what_a_run_reads_is_not_what_it_writes() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("inputs");
    std::fs::create_dir(&folder).unwrap();
    let (input, hard) = (folder.join("routes"), root.path().join("hard"));
    std::fs::write(&input, record_of("routes")).unwrap();
    std::fs::hard_link(&input, &hard).unwrap();
    let around = folder.join("../inputs/routes");
    let mut names = vec![input.clone(), hard, around];
    for (link, to, through) in [
        ("link", &input, "link"),
        ("folder", &folder, "folder/routes"),
    ] {
        std::os::unix::fs::symlink(to, root.path().join(link)).unwrap();
        names.push(root.path().join(through));
    }
    for path in &names {
        let outputs = [Output { path, kind: ROUTES }];
        for inputs in [[input.as_path()], [folder.as_path()]] {
            let error = check_outputs(&outputs, &inputs, true)
                .unwrap_err()
                .to_string();
            assert!(error.contains("read by this run"), "{path:?}: {error}");
        }
        check_outputs(&outputs, &[], true).unwrap();
    }
    let outputs = [&names[0], &names[2]].map(|path| Output { path, kind: ROUTES });
    let error = check_outputs(&outputs, &[], true).unwrap_err().to_string();
    assert!(error.contains("twice"), "{error}");
}

#[test]
fn a_place_that_cannot_take_a_file_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = |path: &Path| check_outputs(&[Output { path, kind: TRACE }], &[], true);
    let read_only = folder.path().join("read-only");
    std::fs::write(&read_only, record_of("trace")).unwrap();
    let mut permissions = std::fs::metadata(&read_only).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&read_only, permissions).unwrap();
    for path in [
        folder.path(),
        &folder.path().join("none/new"),
        &read_only,
        Path::new(""),
    ] {
        let error = out(path).unwrap_err().to_string();
        assert!(error.contains("cannot be written"), "{path:?}: {error}");
    }
    assert_eq!(names(folder.path()), ["read-only"]);
}

#[cfg(unix)]
#[test]
fn devices_and_links_stay_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    std::fs::write(&file, record_of("trace")).unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    let dangling = folder.path().join("dangling");
    std::os::unix::fs::symlink("nothing", &dangling).unwrap();
    let out = |path: &Path, force| check_outputs(&[Output { path, kind: TRACE }], &[], force);
    for path in [&link, &dangling, Path::new("/dev/null"), Path::new("/")] {
        let error = out(path, false).unwrap_err().to_string();
        assert!(error.contains("no device or link"), "{error}");
    }
    out(&link, true).unwrap();
    for path in [&dangling, Path::new("/dev/null"), Path::new("/")] {
        out(path, true).unwrap_err();
    }
}
