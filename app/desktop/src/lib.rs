//! The desktop app: chat with a model, and see what it looks at for every token.
//!
//! [`window::run`] opens it. [`app`] holds all state and is the one place that talks to the engine's
//! runner and to the database ([`store`]); everything else draws what it is given and says what the
//! user wants: [`chat`], [`sidebar`], [`models`], [`settings`], [`shortcuts`], [`inspector`]. A
//! [`recording`] is what the inspector's views read.

pub mod accessibility;
pub mod app;
pub mod chat;
pub mod heatmap;
pub mod inspector;
pub mod models;
pub mod palette;
pub mod picture;
pub mod recording;
pub mod settings;
pub mod shortcuts;
pub mod sidebar;
pub mod store;
pub mod theme;
pub mod window;
