//! `expert_plan` against its reference, and what makes a plan one.

use rand_chacha::rand_core::Rng;
use shaders::Tuning;
use shaders::expert_plan::{Call, KERNEL, dispatch, max_tiles, plan_words, tile};

use super::gpu;
use super::inputs::seeded;

/// The plan of `experts`, by the reference.
pub fn plan(tuning: &Tuning, call: &Call, experts: &[u32]) -> Vec<u32> {
    let mut buffers = [experts.to_vec(), gpu::garbage(plan_words(call, tuning))];
    dispatch(call, tuning).run_reference(&mut buffers);
    let [_, plan] = buffers;
    plan
}

fn check(call: &Call, experts: &[u32]) {
    gpu::each(&KERNEL, |gpu, tuning| {
        let buffers = [experts.to_vec(), gpu::garbage(plan_words(call, tuning))];
        gpu.check(&dispatch(call, tuning), &buffers, &[]);

        let found = plan(tuning, call, experts);
        let (records, order) = found.split_at(4 * max_tiles(call, tuning));
        let mut expected: Vec<u32> = (0..call.n() as u32).collect();
        expected.retain(|&slot| (experts[slot as usize] as usize) < call.n_experts);
        expected.sort_by_key(|&slot| experts[slot as usize]);
        assert_eq!(order[..expected.len()], expected, "{call:?}, {tuning:?}");

        // Each slot is in one tile, with its own expert, and no tile is too long.
        let mut covered = vec![0; expected.len()];
        for record in records.chunks(4) {
            let (expert, first, count) = (record[0], record[1] as usize, record[2] as usize);
            assert!(count as u32 <= tile(tuning) && record[3] == 0, "{record:?}");
            for at in first..first + count {
                assert_eq!(experts[order[at] as usize], expert);
                covered[at] += 1;
            }
        }
        assert!(covered.iter().all(|&times| times == 1), "{covered:?}");
    });
}

#[test]
fn slots_are_sorted_by_expert_and_stay_in_order() {
    let random = &mut seeded(1);
    for (tokens, slots, n_experts) in [(1, 1, 1), (9, 3, 5), (100, 9, 257), (257, 2, 3), (70, 1, 1)]
    {
        let call = Call {
            tokens,
            slots,
            n_experts,
        };
        let experts = (0..call.n()).map(|_| random.next_u32() % n_experts as u32);
        check(&call, &experts.collect::<Vec<_>>());
    }
}

#[test]
fn one_expert_may_have_all_and_others_none() {
    let call = Call {
        tokens: 64,
        slots: 2,
        n_experts: 7,
    };
    for expert in [0, 3, 6] {
        check(&call, &[expert; 128]);
    }
}

#[test]
fn ids_beyond_the_experts_are_left_out() {
    let call = Call {
        tokens: 3,
        slots: 2,
        n_experts: 2,
    };
    // -1 is beyond, too.
    check(&call, &[1, 2, u32::MAX, 0, 1, 7]);
}
