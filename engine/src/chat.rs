//! Messages to prompt text, completions to reasoning, content and tool calls: the encoding of V3.2.
//!
//! The model has no template language; its encoding is a function, [`encode()`], which keeps what people,
//! tools and files said apart from the template around it: in that alone do marks count. What comes
//! back is read by a [`CompletionParser`], while it is generated or at once. [`reasoning_prompt`] and
//! [`boxed_answer`] are for questions with one short answer. Ids are the business of
//! [`crate::tokenizer`].
//!
//! ```
//! use engine::chat::{EncodeOptions, Message, Role, encode};
//! use engine::tokenizer::text_of;
//!
//! let messages = [Message::new(Role::User, "1+1=?")];
//! let options = EncodeOptions { thinking: true, ..EncodeOptions::default() };
//! let prompt = encode(&messages, &options)?;
//! assert_eq!(text_of(&prompt), "<｜begin▁of▁sentence｜><｜User｜>1+1=?<｜Assistant｜><think>");
//! # Ok::<(), engine::Error>(())
//! ```

mod answer;
mod encode;
mod json;
mod message;
mod parse;
mod tags;

pub use answer::{boxed_answer, reasoning_prompt};
pub use encode::{EncodeOptions, encode, encode_after};
pub use message::{METADATA, Message, Role, ToolCall, from_request};
pub use parse::{Completion, CompletionParser, Delta, parse};

/// Begins every conversation.
pub const BOS: &str = "<｜begin▁of▁sentence｜>";
/// Ends every reply of the model.
pub const EOS: &str = "<｜end▁of▁sentence｜>";

const USER: &str = "<｜User｜>";
const ASSISTANT: &str = "<｜Assistant｜>";
const THINK: &str = "<think>";
const END_THINK: &str = "</think>";
/// Marks the tags of tool calls.
const DSML: &str = "｜DSML｜";
