//! Conversations as the family encodes them, and what is to be learned of them: the model's part.

use engine::chat::{EncodeOptions, Message, Role, encode_after};
use engine::tokenizer::Piece;

use crate::Result;

/// What the model says.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// What it thinks first.
    pub(super) reasoning: Option<String>,
    pub(super) text: String,
}

/// A question and its reply.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) question: String,
    pub(super) reply: Reply,
}

impl Turn {
    /// A question that is answered without thinking.
    pub(super) fn plain(question: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            question: question.into(),
            reply: Reply {
                reasoning: None,
                text: text.into(),
            },
        }
    }
}

/// Text, and whether it is to be predicted.
pub(super) type Part = (Vec<Piece>, bool);

/// The conversation in parts that can be encoded one by one: each ends at an added token. It is in
/// thinking mode if the last reply has reasoning; older reasoning is left out, as the encoding wants.
///
/// # Errors
/// What the engine refuses.
pub(super) fn parts(turns: &[Turn]) -> Result<Vec<Part>> {
    let mut messages = Vec::new();
    for turn in turns {
        messages.push(Message::new(Role::User, &turn.question));
        let mut reply = Message::new(Role::Assistant, &turn.reply.text);
        reply.reasoning_content.clone_from(&turn.reply.reasoning);
        messages.push(reply);
    }
    let options = EncodeOptions {
        thinking: turns
            .last()
            .is_some_and(|turn| turn.reply.reasoning.is_some()),
        ..EncodeOptions::default()
    };
    // What the conversation is from a message on depends on all that follow it: a part is what that
    // has more than from the next message on.
    let mut ends = Vec::new();
    for start in 0..messages.len() {
        ends.push(encode_after(
            &messages[..start],
            &messages[start..],
            &options,
        )?);
    }
    ends.push(Vec::new());
    let parts = ends.windows(2).zip(&messages).map(|(pair, message)| {
        let pieces = pair[0][..pair[0].len() - pair[1].len()].to_vec();
        (pieces, message.role == Role::Assistant)
    });
    Ok(parts.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use engine::tokenizer::text_of;

    use super::*;

    #[test]
    fn the_models_part_is_reply_reasoning_and_end() {
        let mut turns = vec![
            Turn::plain("Hello", "Hi!"),
            Turn::plain("1+1=?", "\\boxed{2}"),
        ];
        turns[0].reply.reasoning = Some("old".into());
        let as_text = |turns: &[Turn]| {
            let parts = parts(turns).unwrap();
            parts
                .into_iter()
                .map(|(pieces, is_target)| format!("{is_target}:{}", text_of(&pieces)))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            as_text(&turns),
            [
                "false:<｜begin▁of▁sentence｜><｜User｜>Hello<｜Assistant｜></think>",
                "true:Hi!<｜end▁of▁sentence｜>",
                "false:<｜User｜>1+1=?<｜Assistant｜></think>",
                "true:\\boxed{2}<｜end▁of▁sentence｜>",
            ]
        );
        turns[1].reply.reasoning = Some("new".into());
        assert_eq!(
            as_text(&turns)[2..],
            [
                "false:<｜User｜>1+1=?<｜Assistant｜><think>",
                "true:new</think>\\boxed{2}<｜end▁of▁sentence｜>",
            ]
        );
        assert!(as_text(&[]).is_empty());
    }
}
