//! What is written in the documents is there.

use std::path::{Path, PathBuf};

const DOCUMENTS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "benches/README.md",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Words in backticks of a Markdown text.
fn code_words(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_path_named_in_a_document_exists() {
    let folders = [
        "engine/", "app/", "tests/", "benches/", "models/", "shaders/", ".ci/",
    ];
    let mut checked = 0;
    for document in DOCUMENTS {
        for word in code_words(&read(document)) {
            let is_path = folders.iter().any(|folder| word.starts_with(folder))
                && word
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if is_path {
                assert!(
                    root().join(word).exists(),
                    "{document} names `{word}`, which is not there"
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 5, "documents name paths, found {checked}");
}

/// The tree is a block of lines `name, name  what they are`, indented under the folder they are in.
#[test]
fn every_file_of_the_tree_exists() {
    let text = read("ARCHITECTURE.md");
    let files = text.split("## Files").nth(1).expect("there is a tree");
    let tree = files.split("```").nth(1).expect("the tree is a block");
    let mut folder = root();
    let mut checked = 0;
    for line in tree.lines().filter(|line| !line.trim().is_empty()) {
        let mut names = Vec::new();
        for word in line.split_whitespace() {
            names.push(word.trim_end_matches(','));
            if !word.ends_with(',') {
                break;
            }
        }
        if !line.starts_with(' ') {
            folder = root();
        }
        for name in &names {
            assert!(
                folder.join(name).exists(),
                "the tree names {name:?} in {folder:?}"
            );
            checked += 1;
        }
        if !line.starts_with(' ') {
            folder = root().join(names[0]);
        }
    }
    assert!(checked > 30, "the tree has files, found {checked}");
}

#[test]
fn every_make_target_named_in_a_document_exists() {
    let makefile = read("Makefile");
    for document in DOCUMENTS {
        for word in code_words(&read(document)) {
            if let Some(target) = word.strip_prefix("make ") {
                let rule = format!("\n{target}:");
                assert!(
                    makefile.contains(&rule),
                    "{document} names `{word}`, the Makefile has no such target"
                );
            }
        }
    }
    assert!(read("README.md").contains("`make run`") && read("README.md").contains("`make test`"));
    assert!(read(".ci/run").contains("make test"));
}

#[test]
fn one_wgpu_and_one_naga_are_in_the_graph() {
    // Burn's wgpu device and ours are one type only while there is one wgpu.
    let lock = read("Cargo.lock");
    for name in ["wgpu", "naga"] {
        let entry = format!("name = \"{name}\"\n");
        assert_eq!(
            lock.matches(&entry).count(),
            1,
            "{name} is in Cargo.lock once"
        );
    }
}

#[test]
fn engine_modules_say_what_they_do() {
    fn walk(folder: &Path, silent: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, silent);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !std::fs::read_to_string(&path).unwrap().starts_with("//!")
            {
                silent.push(path);
            }
        }
    }
    let mut silent = Vec::new();
    walk(&root().join("engine/src"), &mut silent);
    walk(&root().join("app/src"), &mut silent);
    assert!(
        silent.is_empty(),
        "these open without saying what they do: {silent:?}"
    );
}

/// The files of the GPU's folder, each after those that it uses.
const GPU_ORDER: &[&str] = &[
    "sizes",
    "tuning",
    "profile",
    "launch",
    "rows",
    "watch",
    "caches",
    "weights",
    "experts",
    "layer",
    "step",
    "attention",
    "feed_forward",
    "forward",
    "body",
    "count",
];

#[test]
fn files_of_the_gpu_use_earlier_ones_only() {
    let folder = root().join("engine/src/gpu");
    let mut there: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    there.sort();
    let mut named: Vec<String> = GPU_ORDER.iter().map(|name| name.to_string()).collect();
    named.sort();
    assert_eq!(there, named, "the order names every file");
    let mut checked = 0;
    for (at, name) in GPU_ORDER.iter().enumerate() {
        let text = read(&format!("engine/src/gpu/{name}.rs"));
        // Tests may use what they test with.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for prefix in ["super::", "crate::gpu::"] {
            for used in code.split(prefix).skip(1) {
                let word = |c: char| c.is_ascii_lowercase() || c == '_';
                let used: String = used.chars().take_while(|c| word(*c)).collect();
                let Some(of) = GPU_ORDER.iter().position(|name| **name == used) else {
                    assert!(
                        used.is_empty(),
                        "{name} uses {prefix}{used}, expected a file"
                    );
                    panic!("{name} uses {prefix} as a whole, expected a file of it");
                };
                assert!(of < at, "{name} uses {used}, which comes later");
                checked += 1;
            }
        }
    }
    assert!(checked > 30, "files use each other, found {checked}");
    let launch = read("engine/src/gpu/launch.rs");
    for word in ["GpuPass", "layer", "trace"] {
        assert!(!launch.contains(word), "launch.rs mentions {word:?}");
    }
}
