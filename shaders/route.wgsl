// s = sigmoid(logits[t]) or softmax(logits[t])              what the inspector sees
// b = s + bias                                              for choosing only
// groups: the n_kept of n_groups with the best sum of two b (METHOD 2) or best b (METHOD 1) stay
// experts[t, ..k] = the k best b, best first, ties to the lower id; or forced[t], if its first entry is >= 0
// weights[t, ..k] = s[e] [/ (sum of s[e] + 1e-20)] * scaling
// experts[t, k + i] = n_experts + i, weights[t, k + i] = 1: the shared experts
//
// One workgroup a token. Every lane ranks its experts (and groups) by counting who is better, over a list in
// workgroup memory that all lanes read at the same place: no sorting, and few barriers. Sums over slots are
// done by every lane in slot order.
//
// Bytes: logits, bias and scores once a token, and what is chosen. Flops: about 8 an expert.

// 0 sigmoid, 1 softmax.
override SCORING: u32 = 0u;
// 0 greedy, 1 groups by their best, 2 groups by their two best.
override METHOD: u32 = 2u;
override WG: u32 = 256u;

const MOST: u32 = 512u; // experts
const MOST_GROUPS: u32 = 128u;
const LOWEST: f32 = -3.4e38;
// Keys of what losing groups are struck out with: of 0.0 and of -inf.
const STRUCK: u32 = select(0x007fffffu, 0x80000000u, METHOD == 1u);

struct Params {
    tokens: u32,
    n_experts: u32,
    k: u32,
    n_shared: u32,
    n_groups: u32,
    n_kept: u32, // groups
    has_bias: u32,
    has_forced: u32,
    normalise: u32, // whether the weights are divided by their sum
    scaling: f32,
    position: u32, // of the first token
    padding: u32,
}

@group(0) @binding(0) var<storage, read_write> logits: array<f32>; // [tokens, n_experts]
@group(0) @binding(1) var<storage, read_write> bias: array<f32>; // [n_experts] if has_bias
@group(0) @binding(2) var<storage, read_write> forced: array<i32>; // [tokens, k] if has_forced
@group(0) @binding(3) var<storage, read_write> scores: array<f32>; // [tokens, n_experts]
@group(0) @binding(4) var<storage, read_write> experts: array<i32>; // [tokens, k + n_shared]
@group(0) @binding(5) var<storage, read_write> weights: array<f32>; // [tokens, k + n_shared]
@group(0) @binding(6) var<storage, read_write> status: array<atomic<u32>>; // [4]; 1: 2^31 - the first position with a NaN
@group(0) @binding(7) var<uniform> params: Params;

var<workgroup> score_of: array<f32, MOST>;
var<workgroup> keys: array<u32, MOST>; // of b, ordered as b is
var<workgroup> best_two: array<vec2<u32>, MOST_GROUPS>; // keys, of a group
var<workgroup> group_keys: array<u32, MOST_GROUPS>;
var<workgroup> chosen: array<u32, MOST>; // by slot

@compute @workgroup_size(WG)
fn route(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let token = group.x + group.y * 65535u;
    // Workgroups beyond the last token do that token's work again, and write nothing.
    let row = min(token, params.tokens - 1u);
    let n_experts = params.n_experts;
    let k = params.k;
    let writes = token < params.tokens;

    var most = LOWEST;
    var bad = 0.0;
    for (var expert = lane.index; expert < n_experts; expert += WG) {
        let logit = logits[row * n_experts + expert];
        let bits = bitcast<u32>(logit);
        // Softmax makes NaN of +inf.
        if (bits & 0x7fffffffu) > 0x7f800000u || (SCORING == 1u && bits == 0x7f800000u) {
            bad = 1.0;
        } else {
            most = max(most, logit);
        }
    }
    bad = workgroup_max(lane, bad);
    if SCORING == 1u {
        most = workgroup_max(lane, most);
    }

    var sum = 0.0;
    for (var expert = lane.index; expert < n_experts; expert += WG) {
        let logit = logits[row * n_experts + expert];
        var score = 0.0;
        if SCORING == 1u {
            score = exp(max(logit, LOWEST) - most);
            sum += score;
        } else {
            score = 1.0 / (1.0 + exp(clamp(-logit, -88.0, 88.0)));
        }
        score_of[expert] = score;
    }
    if SCORING == 1u {
        sum = workgroup_sum(lane, sum);
    }
    for (var expert = lane.index; expert < n_experts; expert += WG) {
        var score = score_of[expert];
        if SCORING == 1u {
            score /= sum;
            score_of[expert] = score;
        }
        var biased = score;
        if params.has_bias != 0u {
            biased += bias[expert];
        }
        keys[expert] = ordered(biased);
        if writes {
            scores[row * n_experts + expert] = score;
        }
    }
    workgroupBarrier();

    if METHOD != 0u && params.n_groups > 1u {
        let size = n_experts / params.n_groups;
        for (var expert = lane.index; expert < n_experts; expert += WG) {
            let first = expert / size * size;
            let rank = better(first, first + size, expert);
            if rank == 0u {
                best_two[expert / size].x = keys[expert];
            } else if rank == 1u {
                best_two[expert / size].y = keys[expert];
            }
        }
        workgroupBarrier();
        for (var at = lane.index; at < params.n_groups; at += WG) {
            let two = best_two[at];
            // Where a group has one expert, the second is garbage and not read.
            if METHOD == 2u && size > 1u {
                group_keys[at] = ordered(value(two.x) + value(two.y));
            } else {
                group_keys[at] = two.x;
            }
        }
        workgroupBarrier();
        for (var expert = lane.index; expert < n_experts; expert += WG) {
            let own = expert / size;
            var rank = 0u;
            for (var other = 0u; other < params.n_groups; other++) {
                let more = group_keys[other] > group_keys[own];
                let same = group_keys[other] == group_keys[own] && other < own;
                rank += select(0u, 1u, more || same);
            }
            if rank >= params.n_kept {
                keys[expert] = STRUCK;
            }
        }
        workgroupBarrier();
    }

    var is_forced = false;
    if params.has_forced != 0u {
        is_forced = forced[row * k] >= 0;
    }
    if bad == 0.0 && !is_forced {
        for (var expert = lane.index; expert < n_experts; expert += WG) {
            let rank = better(0u, n_experts, expert);
            if rank < k {
                chosen[rank] = expert;
            }
        }
    } else {
        for (var slot = lane.index; slot < k; slot += WG) {
            var expert = slot;
            if bad == 0.0 {
                expert = u32(max(forced[row * k + slot], 0));
            }
            chosen[slot] = min(expert, n_experts - 1u);
        }
    }
    workgroupBarrier();

    var total = 0.0;
    for (var slot = 0u; slot < k; slot++) {
        total += score_of[chosen[slot]];
    }
    let divisor = select(1.0, total + 1e-20, params.normalise != 0u);
    let slots = k + params.n_shared;
    if writes {
        for (var slot = lane.index; slot < slots; slot += WG) {
            var expert = n_experts + slot - k;
            var weight = 1.0;
            if slot < k {
                expert = chosen[slot];
                weight = select(score_of[expert] / divisor * params.scaling, 0.0, bad != 0.0);
            }
            experts[row * slots + slot] = i32(expert);
            weights[row * slots + slot] = weight;
        }
        if bad != 0.0 && lane.index == 0u {
            atomicMax(&status[1], 0x80000000u - (params.position + row));
        }
    }
}

// How many experts of a range come before this one.
fn better(first: u32, end: u32, expert: u32) -> u32 {
    let key = keys[expert];
    var n = 0u;
    for (var other = first; other < end; other++) {
        let its = keys[other];
        n += select(0u, 1u, its > key || (its == key && other < expert));
    }
    return n;
}

// Keys compare as the numbers do: negative ones are turned round.
fn ordered(number: f32) -> u32 {
    let bits = bitcast<u32>(number);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn value(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}
