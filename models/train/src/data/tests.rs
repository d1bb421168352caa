//! The promises of a corpus, on a small tokenizer trained for the occasion.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::sync::OnceLock;

use engine::chat::EOS;

use super::*;

pub(super) fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let made = TOKENIZER.get_or_init(|| {
        let texts = tokenizer_texts(None, 5, 60).unwrap();
        let trained = crate::bpe::train(texts.into_iter(), 1500).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        trained.save(&path, false).unwrap();
        Arc::new(Tokenizer::open(&path).unwrap())
    });
    made.clone()
}

pub(super) fn corpus() -> Corpus {
    Corpus::open(tokenizer(), None).unwrap()
}

fn mixture(kinds: &[(&str, f64)]) -> Mixture {
    kinds
        .iter()
        .map(|&(kind, weight)| (kind.to_owned(), weight))
        .collect()
}

fn generated() -> Mixture {
    mixture(&[
        ("story", 3.0),
        ("recall", 2.0),
        ("copy", 1.0),
        ("sums", 1.0),
        ("chat", 2.0),
    ])
}

#[test]
fn sequences_have_their_length_and_depend_on_every_argument() {
    let corpus = corpus();
    let all = generated();
    for length in [0, 1, 2, 17, 64, 333] {
        for n in 0..20 {
            let sequence = corpus.sequence(&all, Split::Train, 1, n, length).unwrap();
            assert_eq!(sequence.ids.len(), length);
            assert_eq!(sequence.loss.len(), length);
            assert_eq!(
                sequence,
                corpus.sequence(&all, Split::Train, 1, n, length).unwrap()
            );
        }
    }
    let base = corpus.sequence(&all, Split::Train, 1, 2, 300).unwrap();
    let mut other = all.clone();
    other.insert("story".into(), 3.5);
    for changed in [
        corpus.sequence(&all, Split::Validation, 1, 2, 300).unwrap(),
        corpus.sequence(&all, Split::Train, 2, 2, 300).unwrap(),
        corpus.sequence(&all, Split::Train, 1, 3, 300).unwrap(),
        corpus.sequence(&other, Split::Train, 1, 2, 300).unwrap(),
        Corpus { ..self::corpus() }
            .sequence(&all, Split::Train, 1, 2, 299)
            .unwrap(),
    ] {
        assert_ne!(changed.ids[..299], base.ids[..299]);
    }
}

#[test]
fn documents_stand_between_bos_and_eos() {
    let corpus = corpus();
    for kind in ["story", "copy", "sums", "chat"] {
        let sequence = corpus
            .sequence(&mixture(&[(kind, 1.0)]), Split::Train, 3, 0, 2000)
            .unwrap();
        assert_eq!(sequence.ids[0], corpus.bos);
        for (index, pair) in sequence.ids.windows(2).enumerate() {
            if pair[1] == corpus.bos {
                assert_eq!(pair[0], corpus.eos, "{kind} at {index}");
                assert!(!sequence.loss[index + 1], "BOS is no target");
            }
        }
        assert!(sequence.ids.iter().filter(|&&id| id == corpus.bos).count() > 3);
    }
}

#[test]
fn targets_are_the_models_part_in_conversations_and_all_but_bos_elsewhere() {
    let corpus = corpus();
    let id = |token: &str| corpus.tokenizer.token_id(token).unwrap();
    let (user, assistant, end) = (id("<｜User｜>"), id("<｜Assistant｜>"), id(EOS));
    let opens = [id("<think>"), id("</think>")];
    for kind in ["sums", "chat"] {
        let sequence = corpus
            .sequence(&mixture(&[(kind, 1.0)]), Split::Train, 4, 0, 3000)
            .unwrap();
        let mut is_reply = false;
        let mut follows_assistant = false;
        for (&id, &is_target) in sequence.ids.iter().zip(&sequence.loss) {
            // The token after <｜Assistant｜> is given, too: it says whether to think.
            let is_mode = follows_assistant && opens.contains(&id);
            assert_eq!(is_target, is_reply && !is_mode && id != user, "{kind}");
            follows_assistant = id == assistant;
            is_reply = id != end && id != user && (is_reply || follows_assistant);
        }
    }
    for kind in ["story", "copy", "recall"] {
        let sequence = corpus
            .sequence(&mixture(&[(kind, 1.0)]), Split::Train, 4, 0, 900)
            .unwrap();
        for (&id, &is_target) in sequence.ids.iter().zip(&sequence.loss) {
            assert_eq!(is_target, id != corpus.bos, "{kind}");
        }
    }
}

#[test]
fn weights_are_shares_of_the_tokens() {
    let corpus = corpus();
    let id = |token: &str| corpus.tokenizer.token_id(token).unwrap();
    let user = id("<｜User｜>");
    let all = mixture(&[("recall", 1.0), ("copy", 1.0), ("sums", 2.0)]);
    let (mut recall, mut sums, mut n_tokens) = (0, 0, 0);
    for n in 0..300 {
        let sequence = corpus.sequence(&all, Split::Train, 9, n, 400).unwrap();
        n_tokens += 400;
        let documents = sequence.ids.split(|&id| id == corpus.bos).skip(1);
        let documents: Vec<_> = documents.collect();
        match &documents[..] {
            [_] => recall += 400,
            many => {
                let talk = many
                    .iter()
                    .filter(|document| document.first() == Some(&user));
                sums += talk.map(|document| document.len() + 1).sum::<usize>();
            }
        }
    }
    let share = |n: usize| n as f64 / f64::from(n_tokens);
    assert!((0.15..0.35).contains(&share(recall)), "{}", share(recall));
    assert!((0.35..0.65).contains(&share(sums)), "{}", share(sums));
}

#[test]
fn recall_asks_from_early_on_and_the_answers_are_right() {
    let corpus = corpus();
    let lengths = [128, 512, 2048];
    let kinds = [
        ("recall", 120),
        ("drill", 40),
        ("near-drill", 30),
        ("object-drill", 40),
        ("owner-drill", 40),
    ];
    let cases = lengths.map(|length| kinds.map(|(kind, tokens)| (kind, length, tokens)));
    for (kind, length, tokens_a_question) in cases.into_iter().flatten() {
        let sequence = corpus
            .sequence(&mixture(&[(kind, 1.0)]), Split::Train, 1, 0, length)
            .unwrap();
        let mut values = String::new();
        let text = corpus.tokenizer.decode(&sequence.ids).unwrap();
        let questions: Vec<usize> = text.match_indices("? ").map(|(at, _)| at).collect();
        let mut n_asked = 0;
        for at in questions {
            let start = text[..at].rfind(". ").map_or(0, |at| at + 2);
            let question = &text[start..at];
            let prefix = match question.strip_prefix("What is the ") {
                Some(key) => format!("The {key} is "),
                None => match question.strip_prefix("What colour was ") {
                    Some(key) => format!("{key} was "),
                    None => continue,
                },
            };
            let answer = &text[at + 2..];
            let Some(value) = answer
                .strip_prefix(prefix.as_str())
                .and_then(|rest| rest.split_once('.'))
            else {
                assert!(
                    answer.len() < 60,
                    "only the last answer may be cut: {question}"
                );
                continue;
            };
            let statement = format!("{prefix}{}.", value.0);
            let owner = question
                .strip_prefix("What colour was ")
                .and_then(|key| key.split_once("'s "));
            let having = owner.map(|(name, object)| {
                format!(
                    "{name} had {} {} {object}.",
                    cast::article(value.0),
                    value.0
                )
            });
            let before = &text[..start];
            let is_told = before.contains(&statement)
                || having.is_some_and(|having| before.contains(&having));
            assert!(is_told, "{question}: {statement}");
            values += &format!(" {}.", value.0);
            n_asked += 1;
            if kind != "recall" {
                assert!(!before.contains(question), "{question} is asked twice");
            }
        }
        assert!(
            n_asked >= length / tokens_a_question,
            "{n_asked} questions in {length} tokens of {kind}"
        );
        if kind != "recall" {
            let targets = sequence.ids.iter().zip(&sequence.loss);
            let targets: Vec<u32> = targets.filter_map(|(&id, &is)| is.then_some(id)).collect();
            let targets = corpus.tokenizer.decode(&targets).unwrap();
            // The last value may be cut.
            assert!(targets.starts_with(&values), "{targets} for {values}");
            assert!(targets.len() < values.len() + 16, "{targets} for {values}");
        }
    }
}

#[test]
fn mixtures_that_cannot_be_are_refused() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let empty = Corpus::open(tokenizer(), Some(folder.path())).unwrap();
    for (corpus, mixture, expected) in [
        (
            &corpus,
            mixture(&[("storys", 1.0)]),
            "kind \"storys\" is unknown, expected one of story, recall,",
        ),
        (&corpus, mixture(&[]), "mixture is without any weight"),
        (
            &corpus,
            mixture(&[("story", 0.0)]),
            "mixture is without any weight",
        ),
        (
            &corpus,
            mixture(&[("story", -1.0)]),
            "weight of \"story\" is -1",
        ),
        (
            &corpus,
            mixture(&[("story", f64::NAN)]),
            "weight of \"story\" is NaN",
        ),
        (
            &corpus,
            mixture(&[("children", 1.0)]),
            "kind \"children\" has no text: found no children.txt, expected it in a folder",
        ),
        (
            &empty,
            mixture(&[("pairs", 1.0)]),
            "kind \"pairs\" has no text: found no chatterbot/english/greetings.yml, chatterbot",
        ),
    ] {
        let error = corpus
            .sequence(&mixture, Split::Train, 0, 0, 10)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    // A kind of no weight may be without text.
    corpus
        .sequence(
            &mixture(&[("story", 1.0), ("children", 0.0)]),
            Split::Train,
            0,
            0,
            10,
        )
        .unwrap();
}

#[test]
fn folders_with_other_texts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("nowhere");
    let error = Corpus::open(tokenizer(), Some(&missing)).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");

    std::fs::write(folder.path().join("children.txt"), "Once").unwrap();
    let error = Corpus::open(tokenizer(), Some(folder.path()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("children.txt: has 4 bytes of SHA-256 ")
            && error.contains("expected 1361411 of 748f3bb3"),
        "{error}"
    );
    std::fs::remove_file(folder.path().join("children.txt")).unwrap();

    std::fs::create_dir_all(folder.path().join("chatterbot/english")).unwrap();
    std::fs::write(folder.path().join("chatterbot/english/food.yml"), "").unwrap();
    let error = Corpus::open(tokenizer(), Some(folder.path()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("found no chatterbot/english/greetings.yml, ")
            && !error.contains("food.yml"),
        "{error}"
    );
}

#[test]
fn long_texts_are_cut_and_only_their_last_part_ends() {
    let corpus = corpus();
    let line = "The fox went to the park. ".repeat(20) + "\n";
    let parts = corpus.cut(&line.repeat(12)).unwrap();
    assert!(parts.len() > 2);
    for (index, part) in parts.iter().enumerate() {
        assert_eq!(part.ids[0], corpus.bos);
        assert!(part.ids.len() <= LONGEST + 1);
        assert_eq!(
            part.ids.last() == Some(&corpus.eos),
            index + 1 == parts.len()
        );
    }
    // A line that is too long by itself stays whole, and there is no empty part before it.
    assert_eq!(
        corpus
            .cut(&line.replace('\n', " ").repeat(9))
            .unwrap()
            .len(),
        1
    );
    assert_eq!(corpus.cut("").unwrap()[0].ids, [corpus.bos, corpus.eos]);
}

#[test]
fn every_kind_has_its_files_or_a_program() {
    for kind in KINDS {
        let n_files = FILES.iter().filter(|file| file.kind == kind.name).count();
        assert_eq!(kind.is_real(), n_files > 0, "{}", kind.name);
    }
    for file in FILES {
        assert!(
            KINDS.iter().any(|kind| kind.name == file.kind),
            "{}",
            file.path
        );
        assert_eq!(file.sha256.len(), 64, "{}", file.path);
    }
}
