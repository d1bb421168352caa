//! Figures by hand, and the model inside the program against plain decoding.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use engine::{Device, Model, Session, SessionOptions, Source};

use super::balance::layer_balance;
use super::score::{Greedy, Share, Tally, boxed_number, surprise};
use super::*;

fn is_close(got: f64, want: f64) -> bool {
    (got - want).abs() <= 1e-9
}

#[test]
fn intervals_are_wilsons() {
    // By the closed formula in other arithmetic; 0 and all of them come out of rounding clean.
    for (n_right, n, low, high) in [
        (0, 10, 0.0, 0.277_532_799_862_889),
        (10, 10, 0.722_467_200_137_111, 1.0),
        (5, 10, 0.236_593_090_512_564, 0.763_406_909_487_436),
        (43, 50, 0.738_138_062_894_145, 0.930_491_665_729_837),
        (1, 1, 0.206_549_314_377_237, 1.0),
        (0, 0, 0.0, 1.0),
    ] {
        let found = Share { n_right, n }.wilson();
        assert!(
            is_close(found.0, low) && is_close(found.1, high),
            "{found:?}"
        );
        assert!((0.0..=1.0).contains(&found.0) && (0.0..=1.0).contains(&found.1));
    }
}

#[test]
fn only_a_whole_number_in_the_last_box_is_an_answer() {
    for (text, number) in [
        ("7 + 5 = \\boxed{12}.", Some(12)),
        ("\\boxed{1}, no: \\boxed{ -2 }", Some(-2)),
        ("\\boxed{12} apples, \\boxed{13", None),
        ("12", None),
        ("\\boxed{}", None),
        ("\\boxed{12 apples}", None),
        ("\\boxed{1.5}", None),
        ("\\boxed{99999999999999999999}", None),
    ] {
        assert_eq!(boxed_number(text), number, "{text}");
    }
}

#[test]
fn the_best_token_is_that_of_greedy_decoding() {
    let mut greedy = Greedy::new().unwrap();
    let inf = f32::INFINITY;
    for (logits, id) in [
        (vec![1.0, 3.0, 2.0], 1),
        (vec![2.0, 5.0, 5.0], 1),
        (vec![0.0, -0.0], 0),
        (vec![-0.0, 0.0], 0),
        (vec![-inf, -inf, -7.0], 2),
        (vec![0.5], 0),
    ] {
        assert_eq!(greedy.pick(&logits, 1).unwrap(), id, "{logits:?}");
    }
    for logits in [vec![1.0, f32::NAN], vec![inf, 1.0], vec![-inf, -inf]] {
        let error = greedy.pick(&logits, 1).unwrap_err().to_string();
        assert!(error.contains("expected finite numbers"), "{error}");
    }
}

#[test]
fn surprise_is_the_negative_log_of_the_softmax() {
    let nats = |logits: &[f32], id| surprise(logits, 0, id).unwrap();
    assert!(is_close(nats(&[7.0; 5], 3), 5.0_f64.ln()));
    // Too large for exp, were the largest not taken off.
    let odds = nats(&[30_000.0, 30_001.0], 0);
    assert!(is_close(odds, (1.0 + 1.0_f64.exp()).ln()), "{odds}");
    assert_eq!(nats(&[0.0, f32::NEG_INFINITY], 1), f64::INFINITY);
    assert_eq!(nats(&[0.0, f32::NEG_INFINITY], 0), 0.0);
    for (logits, id, what) in [
        (vec![0.0, f32::NAN], 0, "NaN for token 1"),
        (vec![f32::INFINITY, 0.0], 1, "inf for token 0"),
        (vec![f32::NEG_INFINITY; 2], 1, "-inf for token 0"),
        (vec![0.0; 2], 2, "token id 2"),
        (vec![], 0, "token id 0"),
    ] {
        let error = surprise(&logits, 0, id).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn perplexity_is_the_geometric_mean() {
    let mut tally = Tally::default();
    assert_eq!(tally.perplexity(), None);
    tally.push(2.0_f64.ln());
    let mut other = Tally::default();
    other.push(8.0_f64.ln());
    tally.add(other);
    assert!(is_close(tally.perplexity().unwrap(), 4.0));
}

#[test]
fn balance_of_even_lopsided_and_unused_experts() {
    let of = |loads: &[u64]| {
        let layer = layer_balance(3, loads)?;
        Some((layer.busiest, layer.least, layer.entropy))
    };
    let (busiest, least, entropy) = of(&[5; 4]).unwrap();
    assert!(is_close(busiest, 1.0) && is_close(least, 1.0) && is_close(entropy, 1.0));
    assert_eq!(of(&[8, 0, 0, 0]), Some((4.0, 0.0, 0.0)));
    let (busiest, least, entropy) = of(&[2, 2, 0, 0]).unwrap();
    assert!(is_close(busiest, 2.0) && least == 0.0 && is_close(entropy, 0.5));
    assert_eq!(of(&[3]), Some((1.0, 1.0, 1.0)));
    assert_eq!(of(&[0, 0]), None);
    assert_eq!(of(&[]), None);
}

#[test]
fn a_distance_is_asked_in_the_shortest_text_that_holds_it() {
    let lengths = [2048, 1024];
    let length = |distance| cell(distance, &lengths).map(|cell| cell.length);
    assert_eq!(length(128), Some(1024));
    assert_eq!(length(farthest(1024)), Some(1024));
    assert_eq!(length(farthest(1024) + 1), Some(2048));
    assert_eq!(length(farthest(2048) + 1), None);
    assert_eq!(length(usize::MAX), None);
    assert_eq!(cell(1, &[]), None);
}

struct Tiny {
    tokenizer: Arc<engine::tokenizer::Tokenizer>,
    corpus: Corpus,
    session: Session,
}

/// The model inside the program, from its folder.
fn tiny() -> Tiny {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tiny");
    let tokenizer = Source::from(folder.as_path()).tokenizer().unwrap().unwrap();
    let tokenizer = Arc::new(tokenizer);
    let model = Arc::new(Model::open(&folder, &Device::cpu()).unwrap());
    Tiny {
        corpus: Corpus::open(tokenizer.clone(), None).unwrap(),
        session: Session::new(model, SessionOptions::default()).unwrap(),
        tokenizer,
    }
}

impl Tiny {
    fn eval<'a>(&'a mut self, index_topk: usize, progress: Progress<'a>) -> Eval<'a> {
        Eval {
            corpus: &self.corpus,
            session: &mut self.session,
            index_topk: Some(index_topk),
            seed: 1,
            progress,
        }
    }
}

#[test]
fn an_answer_is_right_exactly_if_decoding_gives_it() {
    let mut tiny = tiny();
    let prompt = tiny.corpus.recall_probe(1, 0, 48, 112).unwrap().prompt;
    let mut go_on = |_| ControlFlow::Continue(());
    let mut greedy = Greedy::new().unwrap();
    let mut eval = tiny.eval(8, &mut go_on);
    for mode in Mode::ALL {
        eval.begin(mode).unwrap();
        let mut logits = eval.session.advance(&prompt).unwrap();
        let mut answer = Vec::new();
        for _ in 0..4 {
            let id = greedy.pick(&logits, eval.session.position()).unwrap();
            answer.push(id);
            logits = eval.session.advance(&[id]).unwrap();
        }
        for n in 1..=answer.len() {
            let mut answer = answer[..n].to_vec();
            let mut is_right = |answer: &[u32]| {
                eval.answers(mode, &prompt, answer, &mut greedy)
                    .unwrap()
                    .unwrap()
            };
            assert!(is_right(&answer), "{mode:?}, {n} tokens");
            answer[n - 1] ^= 1;
            assert!(!is_right(&answer), "{mode:?}, {n} tokens");
        }
    }
}

#[test]
fn modes_agree_where_everything_is_read_and_differ_beyond() {
    let mut tiny = tiny();
    let mut n_fed = 0;
    let mut count = |n| {
        n_fed += n;
        ControlFlow::Continue(())
    };
    let mut eval = tiny.eval(1000, &mut count);
    let plan = TextPlan {
        texts: TEXTS.iter().filter(|text| !text.is_real).collect(),
        lengths: &[96],
        n_sequences: 2,
        modes: &Mode::ALL,
        counts_routes: true,
    };
    let n_told = eval.text_tokens(&plan);
    let scores = eval.texts(&plan).unwrap().unwrap();
    // Three texts and all of them, in four modes.
    assert_eq!(scores.likelihoods.len(), 16);
    for lines in scores.likelihoods.chunks(4) {
        assert_eq!(lines[0].length, 96);
        assert!(
            lines.iter().all(|line| line.all == lines[0].all),
            "{lines:?}"
        );
        assert!(lines.iter().all(|line| line.beyond_topk.n_targets == 0));
    }
    let all = &scores.likelihoods[12];
    let parts = scores.likelihoods.iter().step_by(4).take(3);
    let n_targets: u64 = parts.map(|line| line.all.n_targets).sum();
    assert_eq!((all.text, all.all.n_targets), (ALL_TEXTS, n_targets));
    for layer in &scores.balance {
        // Two experts a token, three texts, two sequences; nothing is fed after the last target.
        assert_eq!(layer.loads.iter().sum::<u64>(), 2 * 3 * 2 * 95);
    }
    assert_eq!(n_fed, n_told);

    let mut go_on = |_| ControlFlow::Continue(());
    let sparse = tiny.eval(16, &mut go_on).texts(&plan).unwrap().unwrap();
    let facts = &sparse.likelihoods[4..8];
    assert!(facts.iter().all(|line| line.all.n_targets == 2 * 95));
    // Rows 16 to 94 see more than 16 positions.
    assert!(
        facts
            .iter()
            .all(|line| line.beyond_topk.n_targets == 2 * 79)
    );
    assert_eq!(facts[0].all, scores.likelihoods[4].all, "dense is dense");
    for line in &facts[1..] {
        assert_ne!(line.all, facts[0].all, "{:?}", line.attention);
    }
}

#[test]
fn whoever_breaks_off_gets_nothing() {
    let mut tiny = tiny();
    let tokenizer = tiny.tokenizer.clone();
    let lengths = [128];
    let cells = [cell(40, &lengths).unwrap()];
    let questions = questions(&tiny.corpus, &cells, 1, 0).unwrap();
    let mut stop = |_| ControlFlow::Break(());
    let mut eval = tiny.eval(8, &mut stop);
    let mut plan = TextPlan {
        texts: vec![&TEXTS[0]],
        lengths: &lengths,
        n_sequences: 1,
        modes: &[Mode::Dense],
        counts_routes: true,
    };
    assert_eq!(eval.texts(&plan).unwrap(), None);
    plan.modes = &[];
    assert_eq!(eval.texts(&plan).unwrap(), None);
    assert!(eval.session.take_routes().is_none());
    assert_eq!(eval.recall(&questions, &Mode::ALL).unwrap(), None);
    assert_eq!(eval.sums(&tokenizer, 1).unwrap(), None);
    assert_eq!(eval.selection(64, 1).unwrap(), None);
}

#[test]
fn no_selection_beats_the_best() {
    let mut tiny = tiny();
    let mut n_fed = 0;
    let mut count = |n| {
        n_fed += n;
        ControlFlow::Continue(())
    };
    let layers = tiny.eval(8, &mut count).selection(64, 2).unwrap().unwrap();
    assert_eq!(n_fed, 2 * 64);
    assert_eq!(layers.len(), 6);
    for layer in &layers {
        for share in [layer.indexer, layer.recent, layer.random] {
            assert!(share > 0.0 && share <= layer.best, "{layer:?}");
        }
        assert!(layer.best < 1.0, "{layer:?}");
    }
    let mut go_on = |_| ControlFlow::Continue(());
    let all = tiny.eval(63, &mut go_on).selection(64, 1).unwrap().unwrap();
    // Without the least of 64 weights, no less than the others' even share is left.
    assert!(
        all.iter().all(|layer| layer.best > 63.0 / 64.0 - 1e-6),
        "{all:?}"
    );
    let none = tiny.eval(64, &mut go_on).selection(64, 1).unwrap().unwrap();
    assert!(none.is_empty());
}
