// score[s] = scale * q_lat[t, j, :] . latent[s, :]                  over rank and rope channels
// most     = max_s score[s],   total = sum_s exp(score[s] - most)
// out[t, split, j, c] = sum_s exp(score[s] - most) * latent[s, c]   over rank channels, not divided by total
// stats[t, split, j]  = (most, total)
//
// over the slots s of one split: entries of the token's selection, -1 skipped, or every position up to its own.
// A split without any has total 0, most -1e30 and zeros.
//
// group.x is a tile of HEADS heads, group.y a split, group.z a token. All heads of a tile share what is read.
//
// FAT 0: TILE latents at a time are decoded into workgroup memory. PARTS lanes share a head's scores: each holds its
// QUADS quads of q in registers, and one lane a head adds them up and keeps the running softmax. Then each lane adds to
// its own 4 heads x OUT_QUADS quads of out, in registers, too. Ranks that do not fit take FAT 1.
//
// FAT 1, for devices whose lanes are a CPU's, where a load costs more than all that is done with it: a lane scores eight
// whole slots for all heads, and its channels' latents go from the cache to registers.
//
// Bytes: latents of the slots once a token (its head tiles run side by side and share them through the cache), q once a
// split, out and stats written once. Flops: 2 * (2 * rank + dr) a slot and head.

// How latents are stored, see latent_words.wgsl.
override LATENT: u32 = 0u;
// Whether every position is read instead of a selection.
override DENSE: u32 = 0u;
override FAT: u32 = 0u;
// PARTS * QUADS quads hold a latent and its rope.
override QUADS: u32 = 9u;
// COLUMNS * OUT_QUADS quads hold a latent.
override OUT_QUADS: u32 = 2u;

const HEADS: u32 = select(16u, 8u, FAT == 1u);
const WG: u32 = select(256u, 32u, FAT == 1u);
const TILE: u32 = select(4u, SLOTS * WG, FAT == 1u);
// Slots that a fat lane scores at once, and quads that it adds up.
const SLOTS: u32 = 8u;
const BLOCK: u32 = 4u;
const PARTS: u32 = WG / HEADS;
const ROW: u32 = PARTS * QUADS;
// Lanes that have the same heads of out.
const COLUMNS: u32 = WG / (HEADS / 4u);
// Not -inf, for which a split without slots would give (-inf) - (-inf).
const NOTHING: f32 = -1e30;

struct Params {
    tokens: u32,
    first_row: u32, // of q_lat and selection
    heads: u32,
    rank: u32,
    dr: u32,
    position: u32, // of the first token
    k: u32,
    splits: u32,
    token_words: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> q_lat: array<vec4<f32>>; // [rows, heads, (rank + dr) / 4]
@group(0) @binding(1) var<storage, read_write> latents: array<vec4<u32>>; // [positions, token_words]
@group(0) @binding(2) var<storage, read_write> selection: array<i32>; // [rows, k]
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>; // [tokens, splits, heads, rank / 4]
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>; // [tokens, splits, heads]
@group(0) @binding(5) var<uniform> params: Params;

// Latents of a tile, [slot, quad].
var<workgroup> tile: array<vec4<f32>, select(TILE * ROW, 1u, FAT == 1u)>;
// Of each lane, its part of its head's score for the four slots of a tile.
var<workgroup> partials: array<vec4<f32>, select(WG, 1u, FAT == 1u)>;
// Exponentials of scores: [head], a tile's slots; FAT 1: [slot, head / 4], before that the scores.
var<workgroup> probabilities: array<vec4<f32>, TILE * HEADS / 4u>;
// What sums so far are to be multiplied with, now that the maximum is another.
var<workgroup> rescale: array<f32, HEADS>;
// Positions of a tile's slots; NONE is skipped.
var<workgroup> positions: array<u32, TILE>;

const NONE: u32 = 0xffffffffu;

@compute @workgroup_size(WG)
fn attend(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let token = group.z;
    let first_head = group.x * HEADS;
    // The selection is padded at its end and has no position twice: what is beyond the own position is padding.
    let visible = params.position + token + 1u;
    let slots = select(min(params.k, visible), visible, DENSE == 1u);
    let of_split = (slots + params.splits - 1u) / params.splits;
    let per_split = (of_split + TILE - 1u) / TILE * TILE;
    let begin = min(group.y * per_split, slots);
    let end = min(begin + per_split, slots);
    let first_out = (token * params.splits + group.y) * params.heads;
    if FAT == 1u {
        fat(token, first_head, begin, end, first_out, lane);
    } else {
        thin(token, first_head, begin, end, first_out, lane);
    }
}

// Position of a slot of a token, NONE if there is none.
fn position_of(token: u32, slot: u32, end: u32) -> u32 {
    if slot >= end {
        return NONE;
    }
    if DENSE == 1u {
        return slot;
    }
    let position = selection[(params.first_row + token) * params.k + slot];
    return select(u32(position), NONE, position < 0);
}

fn thin(token: u32, first_head: u32, begin: u32, end: u32, first_out: u32, lane: u32) {
    let quads = (params.rank + params.dr) / 4u;
    let rank_quads = params.rank / 4u;

    // Scores: the lane's head and its part of the channels. Heads beyond the last are the last again.
    let part = lane % PARTS;
    let score_head = min(first_head + lane / PARTS, params.heads - 1u);
    let q_first = ((params.first_row + token) * params.heads + score_head) * quads;
    var q: array<vec4<f32>, QUADS>;
    for (var i = 0u; i < QUADS; i++) {
        let quad = part + PARTS * i;
        q[i] = select(vec4<f32>(0.0), q_lat[q_first + min(quad, quads - 1u)], quad < quads) * params.scale;
    }

    // Sums: the lane's four heads and its channels.
    let column = lane % COLUMNS;
    let block = lane / COLUMNS * 4u;
    var sums: array<vec4<f32>, 4u * OUT_QUADS>; // [head, quad]
    for (var i = 0u; i < 4u * OUT_QUADS; i++) {
        sums[i] = vec4<f32>(0.0);
    }

    var most = NOTHING;
    var total = 0.0;
    for (var first = begin; first < end; first += TILE) {
        for (var i = lane; i < TILE * ROW; i += WG) {
            let quad = i % ROW;
            let position = position_of(token, first + i / ROW, end);
            var latent = vec4<f32>(0.0);
            if position != NONE && quad < quads {
                latent = latent_quad(position, quad);
            }
            tile[i] = latent;
            if quad == 0u {
                positions[i / ROW] = position;
            }
        }
        workgroupBarrier();

        var scores = vec4<f32>(0.0);
        for (var i = 0u; i < QUADS; i++) {
            let at = part + PARTS * i;
            scores.x += dot(q[i], tile[at]);
            scores.y += dot(q[i], tile[at + ROW]);
            scores.z += dot(q[i], tile[at + 2u * ROW]);
            scores.w += dot(q[i], tile[at + 3u * ROW]);
        }
        partials[lane] = scores;
        workgroupBarrier();

        if lane < HEADS {
            var score = partials[lane * PARTS];
            for (var i = 1u; i < PARTS; i++) {
                score += partials[lane * PARTS + i];
            }
            let here = vec4<bool>(
                positions[0] != NONE,
                positions[1] != NONE,
                positions[2] != NONE,
                positions[3] != NONE,
            );
            score = select(vec4<f32>(NOTHING), score, here);
            let more = max(max(max(score.x, score.y), max(score.z, score.w)), most);
            let probability = select(vec4<f32>(0.0), exp(score - more), here);
            let factor = exp(most - more);
            total = total * factor + (probability.x + probability.y + probability.z + probability.w);
            most = more;
            rescale[lane] = factor;
            probabilities[lane] = probability;
        }
        workgroupBarrier();

        var probability: array<vec4<f32>, 4>; // [head], slots
        for (var head = 0u; head < 4u; head++) {
            probability[head] = probabilities[block + head];
            let factor = rescale[block + head];
            for (var i = 0u; i < OUT_QUADS; i++) {
                sums[head * OUT_QUADS + i] *= factor;
            }
        }
        for (var slot = 0u; slot < TILE; slot++) {
            for (var i = 0u; i < OUT_QUADS; i++) {
                // Columns beyond the rank add up what nobody reads.
                let latent = tile[slot * ROW + min(column + COLUMNS * i, ROW - 1u)];
                for (var head = 0u; head < 4u; head++) {
                    sums[head * OUT_QUADS + i] += probability[head][slot] * latent;
                }
            }
        }
        // The next tile overwrites what slower lanes are still to read.
        workgroupBarrier();
    }

    for (var head = 0u; head < 4u; head++) {
        for (var i = 0u; i < OUT_QUADS; i++) {
            let quad = column + COLUMNS * i;
            if first_head + block + head < params.heads && quad < rank_quads {
                out[(first_out + first_head + block + head) * rank_quads + quad] = sums[head * OUT_QUADS + i];
            }
        }
    }
    if lane < HEADS && first_head + lane < params.heads {
        stats[first_out + first_head + lane] = vec2<f32>(most, total);
    }
}

fn fat(token: u32, first_head: u32, begin: u32, end: u32, first_out: u32, lane: u32) {
    let quads = (params.rank + params.dr) / 4u;
    let rank_quads = params.rank / 4u;
    let q_first = ((params.first_row + token) * params.heads + first_head) * quads;
    let heads = min(HEADS, params.heads - first_head);

    // Of the lane's four heads, for lanes that have some.
    var most = vec4<f32>(NOTHING);
    var total = vec4<f32>(0.0);
    // Ranks beyond BLOCK * WG quads score everything once more for each so many.
    for (var base = 0u; base < rank_quads; base += BLOCK * WG) {
        // Sums of the quads base + lane, base + lane + WG, ...; one beyond the last is the last again.
        var columns: array<u32, BLOCK>;
        for (var i = 0u; i < BLOCK; i++) {
            columns[i] = min(base + lane + WG * i, rank_quads - 1u);
        }
        var sums: array<vec4<f32>, HEADS * BLOCK>; // [head, quad]
        for (var i = 0u; i < HEADS * BLOCK; i++) {
            sums[i] = vec4<f32>(0.0);
        }
        most = vec4<f32>(NOTHING);
        total = vec4<f32>(0.0);

        for (var first = begin; first < end; first += TILE) {
            // Scores of the slots lane, lane + WG, ...
            var mine: array<u32, SLOTS>;
            for (var i = 0u; i < SLOTS; i++) {
                let position = position_of(token, first + lane + WG * i, end);
                positions[lane + WG * i] = position;
                // Where there is none, any: its score is not looked at.
                mine[i] = select(position, 0u, position == NONE);
            }
            var scores: array<vec4<f32>, 2u * HEADS>; // [head, half], slots
            for (var i = 0u; i < 2u * HEADS; i++) {
                scores[i] = vec4<f32>(0.0);
            }
            for (var quad = 0u; quad < quads; quad++) {
                let a = latent_quad(mine[0], quad);
                let b = latent_quad(mine[1], quad);
                let c = latent_quad(mine[2], quad);
                let d = latent_quad(mine[3], quad);
                let e = latent_quad(mine[4], quad);
                let f = latent_quad(mine[5], quad);
                let g = latent_quad(mine[6], quad);
                let h = latent_quad(mine[7], quad);
                for (var head = 0u; head < HEADS; head++) {
                    let q = q_lat[q_first + min(head, heads - 1u) * quads + quad];
                    scores[2u * head] += vec4<f32>(dot(q, a), dot(q, b), dot(q, c), dot(q, d));
                    scores[2u * head + 1u] += vec4<f32>(dot(q, e), dot(q, f), dot(q, g), dot(q, h));
                }
            }
            for (var i = 0u; i < SLOTS; i++) {
                for (var four = 0u; four < HEADS / 4u; four++) {
                    let at = 8u * four + i / 4u;
                    probabilities[(lane + WG * i) * (HEADS / 4u) + four] = params.scale * vec4<f32>(
                        scores[at][i % 4u],
                        scores[at + 2u][i % 4u],
                        scores[at + 4u][i % 4u],
                        scores[at + 6u][i % 4u],
                    );
                }
            }
            workgroupBarrier();

            if lane < HEADS / 4u {
                var more = most;
                for (var slot = 0u; slot < TILE; slot++) {
                    let score = probabilities[slot * (HEADS / 4u) + lane];
                    more = select(more, max(more, score), positions[slot] != NONE);
                }
                let factor = exp(most - more);
                total *= factor;
                for (var slot = 0u; slot < TILE; slot++) {
                    let at = slot * (HEADS / 4u) + lane;
                    let probability = select(vec4<f32>(0.0), exp(probabilities[at] - more), positions[slot] != NONE);
                    total += probability;
                    probabilities[at] = probability;
                }
                most = more;
                for (var head = 0u; head < 4u; head++) {
                    rescale[4u * lane + head] = factor[head];
                }
            }
            workgroupBarrier();

            for (var head = 0u; head < HEADS; head++) {
                let factor = rescale[head];
                for (var i = 0u; i < BLOCK; i++) {
                    sums[head * BLOCK + i] *= factor;
                }
            }
            for (var slot = 0u; slot < TILE; slot++) {
                let position = positions[slot];
                if position != NONE {
                    let a = latent_rank_quad(position, columns[0]);
                    let b = latent_rank_quad(position, columns[1]);
                    let c = latent_rank_quad(position, columns[2]);
                    let d = latent_rank_quad(position, columns[3]);
                    for (var four = 0u; four < HEADS / 4u; four++) {
                        let probability = probabilities[slot * (HEADS / 4u) + four];
                        for (var i = 0u; i < 4u; i++) {
                            let head = (4u * four + i) * BLOCK;
                            sums[head] += probability[i] * a;
                            sums[head + 1u] += probability[i] * b;
                            sums[head + 2u] += probability[i] * c;
                            sums[head + 3u] += probability[i] * d;
                        }
                    }
                }
            }
            // The next tile overwrites what slower lanes are still to read.
            workgroupBarrier();
        }

        for (var head = 0u; head < HEADS; head++) {
            for (var i = 0u; i < BLOCK; i++) {
                if head < heads && base + lane + WG * i < rank_quads {
                    out[(first_out + first_head + head) * rank_quads + columns[i]] = sums[head * BLOCK + i];
                }
            }
        }
    }
    if lane < HEADS / 4u {
        for (var i = 0u; i < 4u; i++) {
            let head = 4u * lane + i;
            if head < heads {
                stats[first_out + first_head + head] = vec2<f32>(most[i], total[i]);
            }
        }
    }
}
