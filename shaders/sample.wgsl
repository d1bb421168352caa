// METHOD 0: the token with the largest logit, of equal ones the lowest id
// METHOD 1: weight[i] = exp((logit[i] - max) / temperature). The nucleus is the fewest best tokens (of equal ones the
//           lower id is better) whose weights reach top_p of all; of it, the first token in order of ids at which
//           the running sum of weights passes uniform * (sum of the nucleus)
// A logit of -inf is a token that cannot come; NaN and +inf are reported, not sampled.
//
// One workgroup, for all its passes over the logits are short. The cut of the nucleus is a radix search over keys
// that are ordered like the logits: 8 passes settle 4 bits each, by the weights of the 16 digits. The draw
// narrows a range of ids to one of WG pieces, three times: enough for 2^24 tokens. Lanes load four logits at a
// time, neighbouring lanes neighbouring ones, but for the pieces of the draw, which lie next to each other.
// All sums run in one fixed order; no atomics.
//
// Reads the logits from memory once; the other passes (1 of METHOD 0, 10 or 11 of METHOD 1) hit the cache: 505 KiB at
// 129,280 tokens. About 10 flops a token and pass.

override WG: u32 = 256u;
// 0 greedy, 1 top-p with a temperature.
override METHOD: u32 = 0u;

const LOWEST: f32 = -3.4028234e38;
const NO_ID: f32 = -16777216.0; // -2^24
const INFINITE: u32 = 0x7f800000u;
const IMPOSSIBLE: u32 = 0xff800000u; // -inf
const NOTHING: f32 = 2.9802322e-8; // 2^-25
const LEVELS: u32 = 3u; // WG^3 tokens

struct Params {
    vocab: u32,
    logits_offset: u32,
    inverse: f32, // 4 / temperature
    cutoff: f32,  // a quarter of the distance to the largest logit beyond which weights are 0
    top_p: f32,
    uniform_number: f32, // in 0..1
}

@group(0) @binding(0) var<storage, read_write> logits: array<u32>; // bits, [logits_offset + vocab]
// Id; flags (1 a NaN, 2 a +inf, 4 nothing but -inf); bits of its logit, of the log of the sum of exp(logit), of
// its log-probability within the nucleus; tokens of the nucleus; 0; 0. If there are flags: the first id that is
// NaN or +inf, else 0; the flags; its bits; then zeros.
@group(0) @binding(1) var<storage, read_write> picked: array<u32>; // [8]
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> digit_masses: array<vec4<f32>, 4>;
var<workgroup> piece_masses: array<f32, WG>; // of keys above the threshold
var<workgroup> piece_ties: array<u32, WG>; // how many keys are the threshold

@compute @workgroup_size(WG)
fn sample(lane: Lane) {
    let vocab = params.vocab;

    var most = LOWEST;
    var counts = vec4<f32>(); // NaN, +inf, possible tokens
    var first_bad = NO_ID;
    for (var id = lane.index; id < vocab; id += 4u * WG) {
        let bits = four(id, WG, vocab);
        for (var i = 0u; i < 4u; i++) {
            let one = bits[i];
            let is_nan = (one & 0x7fffffffu) > INFINITE;
            let is_infinite = one == INFINITE;
            let is_possible = !is_nan && !is_infinite && one != IMPOSSIBLE;
            counts += select(vec4<f32>(), vec4<f32>(1.0), vec4<bool>(is_nan, is_infinite, is_possible, false));
            if is_nan || is_infinite {
                // Ids below 2^24 are exact as f32.
                first_bad = max(first_bad, -f32(id + i * WG));
            }
            if is_possible {
                most = max(most, bitcast<f32>(one));
            }
        }
    }
    counts = workgroup_sum4(lane, counts);
    first_bad = workgroup_max(lane, first_bad);
    most = workgroup_max(lane, most);
    let best = ordered(bitcast<u32>(most));

    var sums = vec4<f32>(); // at temperature 1 and at ours
    var first_best = NO_ID;
    for (var id = lane.index; id < vocab; id += 4u * WG) {
        let bits = four(id, WG, vocab);
        for (var i = 0u; i < 4u; i++) {
            sums.x += weight(bits[i], most, 4.0, 21.75);
            if METHOD == 1u {
                sums.y += weight(bits[i], most, params.inverse, params.cutoff);
            } else if ordered(bits[i]) == best {
                first_best = max(first_best, -f32(id + i * WG));
            }
        }
    }
    sums = workgroup_sum4(lane, sums);

    var chosen = 0u;
    var share = 1.0;
    var n_kept = 1.0;
    if METHOD == 0u {
        chosen = u32(-workgroup_max(lane, first_best));
    } else {
        // Keys above the threshold are in, and the first of those that are equal to it.
        var threshold = 0u;
        var above = 0.0;
        var n_ties = 0u;
        var tie_weight = 0.0;
        if params.top_p < 1.0 {
            // The best token weighs 1 and is in whatever top_p says.
            let wanted = max(params.top_p * sums.y, 0.5);
            var decided = 0u;
            for (var digit_at = 0u; digit_at < 8u; digit_at++) {
                let shift = 28u - 4u * digit_at;
                var a = vec4<f32>();
                var b = vec4<f32>();
                var c = vec4<f32>();
                var d = vec4<f32>();
                for (var id = lane.index; id < vocab; id += 4u * WG) {
                    let bits = four(id, WG, vocab);
                    for (var i = 0u; i < 4u; i++) {
                        let key = ordered(bits[i]);
                        if ((key ^ threshold) & decided) == 0u {
                            let mass = vec4<f32>(weight(bits[i], most, params.inverse, params.cutoff));
                            let digit = vec4<u32>((key >> shift) & 15u);
                            a += select(vec4<f32>(), mass, digit == vec4<u32>(0u, 1u, 2u, 3u));
                            b += select(vec4<f32>(), mass, digit == vec4<u32>(4u, 5u, 6u, 7u));
                            c += select(vec4<f32>(), mass, digit == vec4<u32>(8u, 9u, 10u, 11u));
                            d += select(vec4<f32>(), mass, digit == vec4<u32>(12u, 13u, 14u, 15u));
                        }
                    }
                }
                a = workgroup_sum4(lane, a);
                b = workgroup_sum4(lane, b);
                c = workgroup_sum4(lane, c);
                d = workgroup_sum4(lane, d);
                if lane.index == 0u {
                    digit_masses = array<vec4<f32>, 4>(a, b, c, d);
                }
                workgroupBarrier();
                // The last digit, from the top, that is needed; by roundings, the sum may stay below what is
                // wanted, and then it is the lowest there is.
                var chosen_digit = 0u;
                var reached = above;
                var done = false;
                for (var from_top = 0u; from_top < 16u; from_top++) {
                    let digit = 15u - from_top;
                    let mass = digit_masses[digit / 4u][digit % 4u];
                    if mass > 0.0 && !done {
                        chosen_digit = digit;
                        above = reached;
                        reached += mass;
                        done = reached >= wanted;
                    }
                }
                threshold |= chosen_digit << shift;
                decided |= 15u << shift;
                workgroupBarrier();
            }
            tie_weight = weight(unordered(threshold), most, params.inverse, params.cutoff);
            // The least number that reaches what is wanted. A division may be off by one, so it starts lower.
            n_ties = u32(clamp((wanted - above) / tie_weight, 1.0, 16777216.0)) - 1u;
            for (var more = 0u; more < 3u; more++) {
                if n_ties == 0u || above + f32(n_ties) * tie_weight < wanted {
                    n_ties++;
                }
            }
        }

        var first = 0u;
        var n = vocab;
        var before = 0.0;
        var ties_before = 0u;
        var wanted = 0.0;
        var kept_sum = 1.0;
        for (var level = 0u; level < LEVELS; level++) {
            let size = (n + WG - 1u) / WG;
            let end = min(first + (lane.index + 1u) * size, first + n);
            var mass = 0.0;
            var ties = 0u;
            var n_above = 0.0;
            for (var id = first + lane.index * size; id < end; id += 4u) {
                let bits = four(id, 1u, end);
                for (var i = 0u; i < 4u; i++) {
                    let key = ordered(bits[i]);
                    if key == threshold {
                        ties++;
                    } else if key > threshold {
                        let its = weight(bits[i], most, params.inverse, params.cutoff);
                        mass += its;
                        n_above += select(0.0, 1.0, its > 0.0);
                    }
                }
            }
            piece_masses[lane.index] = mass;
            piece_ties[lane.index] = ties;
            workgroupBarrier();
            if level == 0u {
                kept_sum = 0.0;
                var seen = 0u;
                for (var piece = 0u; piece < WG; piece++) {
                    kept_sum += kept_mass(piece, seen, n_ties, tie_weight);
                    seen += piece_ties[piece];
                }
                wanted = params.uniform_number * kept_sum;
                n_kept = workgroup_sum(lane, n_above) + f32(min(seen, n_ties));
            }
            // The piece in which the sum passes what is wanted; by roundings it may not, and then it is
            // the last that holds a token of the nucleus.
            var choice = 0u;
            var reached = before;
            var seen = ties_before;
            var done = false;
            for (var piece = 0u; piece < WG; piece++) {
                let its = kept_mass(piece, seen, n_ties, tie_weight);
                if its > 0.0 && !done {
                    choice = piece;
                    before = reached;
                    ties_before = seen;
                    reached += its;
                    done = reached > wanted;
                }
                seen += piece_ties[piece];
            }
            workgroupBarrier();
            first += choice * size;
            n = min(size, n - choice * size);
        }
        chosen = min(first, vocab - 1u);
        share = weight(logits[params.logits_offset + chosen], most, params.inverse, params.cutoff) / kept_sum;
    }

    if lane.index == 0u {
        let bad = vec3<bool>(counts.x > 0.0, counts.y > 0.0, counts.x + counts.y + counts.z == 0.0);
        let flags = dot(select(vec3<u32>(), vec3<u32>(1u, 2u, 4u), bad), vec3<u32>(1u));
        if flags != 0u {
            chosen = select(u32(-first_bad), 0u, bad.z);
        }
        picked[0] = chosen;
        picked[1] = flags;
        picked[2] = logits[params.logits_offset + chosen];
        picked[3] = select(bitcast<u32>(most + log(sums.x)), 0u, flags != 0u);
        picked[4] = select(bitcast<u32>(log(share)), 0u, flags != 0u);
        picked[5] = select(u32(n_kept), 0u, flags != 0u);
        picked[6] = 0u;
        picked[7] = 0u;
    }
}

// Bits of four logits, step apart; those from end on are impossible.
fn four(first: u32, step: u32, end: u32) -> vec4<u32> {
    let ids = vec4<u32>(first) + step * vec4<u32>(0u, 1u, 2u, 3u);
    let at = params.logits_offset + min(ids, vec4<u32>(end - 1u));
    let bits = vec4<u32>(logits[at.x], logits[at.y], logits[at.z], logits[at.w]);
    return select(bits, vec4<u32>(IMPOSSIBLE), ids >= vec4<u32>(end));
}

// exp((logit - most) / temperature). Quarters, so that the difference of two finite numbers is finite.
fn weight(bits: u32, most: f32, inverse: f32, cutoff: f32) -> f32 {
    let is_impossible = bits == IMPOSSIBLE;
    let logit = select(bitcast<f32>(bits), LOWEST, is_impossible);
    let gap = 0.25 * most - 0.25 * logit;
    let x = min(gap * inverse, 100.0);
    // Drivers' exp() need not give 1 for what rounds to 1; then equal weights would have inexact sums.
    let its = select(exp(-x), 1.0, x < NOTHING);
    return select(its, 0.0, is_impossible || gap > cutoff);
}

// Weight in a piece of what is kept, where that many ties lie before it.
fn kept_mass(piece: u32, ties_before: u32, n_ties: u32, tie_weight: f32) -> f32 {
    let n = min(ties_before + piece_ties[piece], n_ties) - min(ties_before, n_ties);
    return piece_masses[piece] + f32(n) * tie_weight;
}

// Keys compare as the numbers do: negative ones are turned round. Both zeros are one.
fn ordered(bits: u32) -> u32 {
    return select(bits | 0x80000000u, ~bits, bits > 0x80000000u);
}

fn unordered(key: u32) -> u32 {
    return select(~key, key & 0x7fffffffu, key >= 0x80000000u);
}
