// Cached latents: a token's `rank` channels, then its `dr` rope channels, four (a quad) at a time.
//
// Needs LATENT (0 f32, 1 bf16, 2 e4m3 with f32 rope, 3 e4m3 with bf16 rope), the binding `latents` in units of four
// words (tokens may begin within one), and `rank` and `token_words` in `params`. e4m3 has an f32 scale per 128 channels,
// between the latent and the rope.

// Quad 0 .. rank / 4 is of the latent, those behind it are of the rope.
fn latent_quad(token: u32, quad: u32) -> vec4<f32> {
    let rank_quads = params.rank / 4u;
    if LATENT < 2u || quad < rank_quads {
        return latent_rank_quad(token, quad);
    }
    let rope = token * params.token_words + rank_quads + (rank_quads + 31u) / 32u;
    if LATENT == 2u {
        let word = rope + 4u * (quad - rank_quads);
        return bitcast<vec4<f32>>(
            vec4<u32>(latent_word(word), latent_word(word + 1u), latent_word(word + 2u), latent_word(word + 3u)),
        );
    }
    return latent_bf16(rope + 2u * (quad - rank_quads));
}

// The same for a quad that is known to be of the latent.
fn latent_rank_quad(token: u32, quad: u32) -> vec4<f32> {
    let first = token * params.token_words;
    if LATENT == 0u {
        // rank and dr are multiples of 4: a quad is a unit.
        return bitcast<vec4<f32>>(latents[first / 4u + quad]);
    }
    if LATENT == 1u {
        return latent_bf16(first + 2u * quad);
    }
    let scale = bitcast<f32>(latent_word(first + params.rank / 4u + quad / 32u));
    return from_e4m3(latent_word(first + quad)) * scale;
}

fn latent_word(word: u32) -> u32 {
    return latents[word / 4u][word % 4u];
}

fn latent_bf16(word: u32) -> vec4<f32> {
    return vec4<f32>(from_bf16(latent_word(word)), from_bf16(latent_word(word + 1u)));
}
