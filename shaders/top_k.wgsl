// selection[first_row + t] = positions of the k largest of scores[t, ..n], n = position + t + 1, ascending; ties go to
// the lower position, -0 is 0. Where n <= k all of them, then -1. A NaN among the n: 0, 1, 2.. instead, and
// status[0] = max(status[0], 2^31 - (position + t)), so that the lowest position with a NaN stays. With KEEP,
// chosen[first_row + t] = the scores of what is in selection, 0 beside -1.
//
// One workgroup a row. Scores become integers that compare as they do. Radix selection finds the k-th largest, 11, 11
// and 10 bits at a time: a histogram of the digits of those that share the digits found so far (integer counts, so the
// order of the atomics does not matter), then the bin in which the count from the top reaches k. It ends early when
// that bin is chosen as a whole, mostly after two digits. Then one walk in order writes what is above, and of what is
// equal the first ones: a prefix sum over the lanes gives each its place.
//
// Bytes: the row's n scores for each digit and for the walk, at most four times; k positions,
// and with KEEP as many scores. No arithmetic.

override WG: u32 = 256u;
// Whether the scores of the chosen are kept.
override KEEP: u32 = 0u;

const BINS: u32 = 2048u;
const LANE_BINS: u32 = BINS / WG;
// Quads of scores that a lane has under way in a histogram, and in the walk. A CPU's lanes need not wait.
const DEEP: u32 = select(1u, 8u, WG > 32u);
const WALK: u32 = 4u;
// Lanes whose sums are added in one go.
const SPAN: u32 = 16u;
const NOTHING: u32 = 0xffffffffu;

struct Params {
    tokens: u32,
    first_row: u32, // of selection; that of scores is 0
    position: u32, // of the first token
    k: u32,
    scores_stride: u32,
    unused: u32,
}

@group(0) @binding(0) var<storage, read_write> scores: array<vec4<f32>>; // [tokens, scores_stride / 4]
@group(0) @binding(1) var<storage, read_write> selection: array<i32>; // [.., k]
@group(0) @binding(2) var<storage, read_write> chosen: array<f32>; // [.., k] if KEEP
@group(0) @binding(3) var<storage, read_write> status: array<atomic<u32>>; // [4]
@group(0) @binding(4) var<uniform> params: Params;

// The bin of the k-th largest, how many of it are chosen and how many there are, and whether there is a NaN.
struct Found {
    bin: u32,
    chosen: u32,
    count: u32,
    bad: u32,
}

var<workgroup> counts: array<atomic<u32>, BINS>;
var<workgroup> bad: atomic<u32>;
var<workgroup> found: Found;
var<workgroup> lane_sums: array<u32, WG>;
var<workgroup> span_sums: array<u32, WG / SPAN>;

@compute @workgroup_size(WG)
fn top_k(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let token = group.x + group.y * 65535u;
    if token >= params.tokens {
        return;
    }
    let k = params.k;
    let n = params.position + token + 1u;
    let out = (params.first_row + token) * k;
    if n <= k {
        in_order(token, out, n, lane);
        return;
    }
    let row = token * (params.scores_stride / 4u);
    let quads = (n + 3u) / 4u;

    // The k-th largest key lies within low..=low + range, and it is the need-th largest there.
    var low = 0u;
    var range = 0xffffffffu;
    var need = k;
    var shift = 21u;
    var is_bad = false;
    if lane == 0u {
        atomicStore(&bad, 0u);
    }
    for (var digit = 0u; digit < 3u; digit++) {
        for (var bin = lane; bin < BINS; bin += WG) {
            atomicStore(&counts[bin], 0u);
        }
        workgroupBarrier();
        for (var first = lane; first < quads; first += DEEP * WG) {
            // All loads first: one workgroup must keep many under way.
            var values: array<vec4<f32>, DEEP>;
            for (var i = 0u; i < DEEP; i++) {
                values[i] = scores[row + min(first + i * WG, quads - 1u)];
            }
            for (var i = 0u; i < DEEP; i++) {
                // Neighbours are often alike (zeros): one atomic for all of a run.
                var run = NOTHING;
                var length = 0u;
                for (var j = 0u; j < 4u; j++) {
                    let bits = bitcast<u32>(values[i][j]);
                    let key = ordered(bits);
                    let visible = 4u * (first + i * WG) + j < n;
                    if digit == 0u && visible && (bits & 0x7fffffffu) > 0x7f800000u {
                        atomicStore(&bad, 1u);
                    }
                    let bin = select(NOTHING, (key - low) >> shift, visible && key - low <= range);
                    if bin != run {
                        if run != NOTHING {
                            atomicAdd(&counts[run], length);
                        }
                        run = bin;
                        length = 0u;
                    }
                    length += 1u;
                }
                if run != NOTHING {
                    atomicAdd(&counts[run], length);
                }
            }
        }
        workgroupBarrier();
        // From the highest bin down.
        let highest = BINS - 1u - lane * LANE_BINS;
        var sum = 0u;
        for (var i = 0u; i < LANE_BINS; i++) {
            sum += atomicLoad(&counts[highest - i]);
        }
        var above = sums_before(lane, sum).x;
        if above < need && need <= above + sum {
            for (var i = 0u; i < LANE_BINS; i++) {
                let count = atomicLoad(&counts[highest - i]);
                if above < need && need <= above + count {
                    found = Found(highest - i, need - above, count, atomicLoad(&bad));
                }
                above += count;
            }
        }
        let at = workgroupUniformLoad(&found);
        if at.bad != 0u {
            is_bad = true;
            break;
        }
        low += at.bin << shift;
        range = (1u << shift) - 1u;
        need = at.chosen;
        if at.chosen == at.count {
            break;
        }
        shift = select(10u, 0u, shift == 10u);
    }
    if is_bad {
        if lane == 0u {
            atomicMax(&status[0], 0x80000000u - (params.position + token));
        }
        in_order(token, out, n, lane);
        return;
    }

    // Above is what is beyond the range, equal what is within it.
    var n_above = 0u;
    var n_equal = 0u;
    for (var first = 0u; first < quads; first += WALK * WG) {
        let own = first + lane * WALK;
        var values: array<vec4<f32>, WALK>;
        for (var i = 0u; i < WALK; i++) {
            values[i] = scores[row + min(own + i, quads - 1u)];
        }
        var above = 0u;
        var equal = 0u;
        for (var i = 0u; i < WALK; i++) {
            for (var j = 0u; j < 4u; j++) {
                let at = 4u * i + j;
                let key = ordered(bitcast<u32>(values[i][j]));
                if 4u * own + at < n && key >= low {
                    let is_above = key - low > range;
                    above |= select(0u, 1u, is_above) << at;
                    equal |= select(1u, 0u, is_above) << at;
                }
            }
        }
        // Two counts in one number: a step has fewer than 2^16 scores.
        let sums = sums_before(lane, countOneBits(above) | (countOneBits(equal) << 16u));
        var i_above = n_above + (sums.x & 0xffffu);
        var i_equal = n_equal + (sums.x >> 16u);
        var left = above | equal;
        while left != 0u {
            let at = firstTrailingBit(left);
            left &= left - 1u;
            let is_above = ((above >> at) & 1u) == 1u;
            if is_above || i_equal < need {
                let to = out + i_above + min(i_equal, need);
                selection[to] = i32(4u * own + at);
                if KEEP == 1u {
                    chosen[to] = values[at / 4u][at % 4u];
                }
            }
            i_above += select(0u, 1u, is_above);
            i_equal += select(1u, 0u, is_above);
        }
        n_above += sums.y & 0xffffu;
        n_equal += sums.y >> 16u;
    }
}

// The first k of n positions.
fn in_order(token: u32, out: u32, n: u32, lane: u32) {
    for (var slot = lane; slot < params.k; slot += WG) {
        selection[out + slot] = select(-1, i32(slot), slot < n);
        if KEEP == 1u {
            let at = min(slot, n - 1u);
            let score = scores[token * (params.scores_stride / 4u) + at / 4u][at % 4u];
            chosen[out + slot] = select(0.0, score, slot < n);
        }
    }
}

// Compares as the numbers do.
fn ordered(bits: u32) -> u32 {
    let number = select(bits, 0u, bits == 0x80000000u);
    return select(number | 0x80000000u, ~number, number >= 0x80000000u);
}

// The sum of the lanes before this one, and of all. Every lane calls.
fn sums_before(lane: u32, own: u32) -> vec2<u32> {
    lane_sums[lane] = own;
    workgroupBarrier();
    if lane < WG / SPAN {
        var sum = 0u;
        for (var i = 0u; i < SPAN; i++) {
            sum += lane_sums[lane * SPAN + i];
        }
        span_sums[lane] = sum;
    }
    workgroupBarrier();
    var before = 0u;
    var all = 0u;
    for (var i = 0u; i < WG / SPAN; i++) {
        before += select(0u, span_sums[i], i < lane / SPAN);
        all += span_sums[i];
    }
    for (var i = lane / SPAN * SPAN; i < lane; i++) {
        before += lane_sums[i];
    }
    // The next call writes what slower lanes are still to read.
    workgroupBarrier();
    return vec2<u32>(before, all);
}
