//! Rotary settings, under their old names and their new ones.
//!
//! Old: `rope_theta` beside `rope_scaling` with `type`. New (transformers 5): `rope_parameters`
//! with `rope_type` and `rope_theta` inside. Both are read, and have to agree where both are there.

use super::Yarn;
use super::keys::Keys;
use crate::Result;

/// What transformers takes where no base is given.
const DEFAULT_THETA: f64 = 10000.0;

/// The base of the frequencies and their stretching.
pub(super) fn read(keys: &Keys) -> Result<(f64, Option<Yarn>)> {
    let scaling = keys
        .object("rope_scaling")?
        .filter(|object| !object.is_empty());
    let parameters = keys
        .object("rope_parameters")?
        .filter(|object| !object.is_empty());
    if let Some(false) = keys.flag("rope_interleave")? {
        let why = "attention is rotated in pairs (2i, 2i+1)";
        return Err(keys.error("rope_interleave", format!("is false, expected true: {why}")));
    }

    let mut theta = None;
    for place in [Some(*keys), scaling, parameters].into_iter().flatten() {
        let Some(found) = place.number("rope_theta")? else {
            continue;
        };
        if found <= 1.0 {
            return Err(place.unexpected("rope_theta", "a number above 1"));
        }
        match theta {
            Some(known) if known != found => {
                let problem =
                    format!("is {found}, expected {known} as it is elsewhere in the config");
                return Err(place.error("rope_theta", problem));
            }
            _ => theta = Some(found),
        }
    }
    for place in [Some(*keys), parameters].into_iter().flatten() {
        if place
            .number("partial_rotary_factor")?
            .is_some_and(|part| part != 1.0)
        {
            let expected = "1: all channels of qk_rope_head_dim are rotated";
            return Err(place.unexpected("partial_rotary_factor", expected));
        }
    }

    let old = scaling.map(|object| yarn(&object, false)).transpose()?;
    let new = parameters.map(|object| yarn(&object, true)).transpose()?;
    if let (Some(old), Some(new)) = (&old, &new)
        && old != new
    {
        let say = |yarn: &Option<Yarn>| {
            yarn.as_ref()
                .map_or("no scaling".into(), |y| format!("{y:?}"))
        };
        let problem = format!("says {}, but rope_scaling says {}", say(new), say(old));
        return Err(keys.error(
            "rope_parameters",
            format!("{problem}; expected the two to agree"),
        ));
    }
    Ok((theta.unwrap_or(DEFAULT_THETA), new.or(old).flatten()))
}

/// The stretching that one object asks for. `may_be_plain`: without a type it is none, as long as
/// nothing in it speaks of scaling.
fn yarn(keys: &Keys, may_be_plain: bool) -> Result<Option<Yarn>> {
    if let Some(key) = keys.nested() {
        return Err(keys.unexpected(key, "a plain value: all layers share one rotary embedding"));
    }
    let (old, new) = (keys.text("type")?, keys.text("rope_type")?);
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        let problem = format!("is {new:?}, but type is {old:?}; expected the two to agree");
        return Err(keys.error("rope_type", problem));
    }
    match new.or(old) {
        Some("default") => return Ok(None),
        Some("yarn") => {}
        None if may_be_plain && !keys.mentions("factor") => return Ok(None),
        _ => {
            let key = if new.is_some() { "rope_type" } else { "type" };
            return Err(keys.unexpected(key, "\"yarn\" or \"default\""));
        }
    }

    let at_least = |key: &str, least: f64, default: Option<f64>| match keys.number(key)?.or(default)
    {
        Some(number) if number >= least => Ok(number),
        _ => Err(keys.unexpected(key, &format!("a number of at least {least}"))),
    };
    let yarn = Yarn {
        factor: at_least("factor", 1.0, None)?,
        original_max_position_embeddings: keys.required_size("original_max_position_embeddings")?,
        beta_fast: at_least("beta_fast", 1e-3, Some(32.0))?,
        beta_slow: at_least("beta_slow", 1e-3, Some(1.0))?,
        mscale: at_least("mscale", 0.0, Some(1.0))?,
        mscale_all_dim: at_least("mscale_all_dim", 0.0, Some(0.0))?,
        attention_factor: keys.number("attention_factor")?,
    };
    if yarn.beta_fast < yarn.beta_slow {
        let expected = format!("at least beta_slow, {}", yarn.beta_slow);
        return Err(keys.error(
            "beta_fast",
            format!("is {}, expected {expected}", yarn.beta_fast),
        ));
    }
    if yarn.attention_factor.is_some_and(|factor| factor <= 0.0) {
        return Err(keys.unexpected("attention_factor", "a number above 0"));
    }
    if keys.flag("truncate")? == Some(false) {
        let why = "the ramp starts and ends at whole frequencies";
        return Err(keys.error("truncate", format!("is false, expected true: {why}")));
    }
    Ok(Some(yarn))
}
