//! What a kernel is: a row of a table, its text, and the launch it plans for given sizes.
//!
//! Nothing here knows a device. The engine hands a [`Dispatch`] and buffers to the GPU; the tests
//! walk the rows.

use crate::reference::Reference;

/// A kernel: WGSL text and everything that must be known to launch it.
#[derive(Debug)]
pub struct Kernel {
    /// Name of the kernel, of its file and of its entry point.
    pub name: &'static str,
    /// Texts that are joined, the kernel's own last.
    pub pieces: &'static [Piece],
    /// Storage bindings of group 0 in order; `params` is one more, the last, a uniform.
    pub bindings: &'static [&'static str],
    /// What may be set before the text is compiled.
    pub knobs: &'static [Knob],
    /// Layout of `Params`.
    pub params: Layout,
    /// The definition, on the host.
    pub reference: Reference,
}

/// A piece of WGSL.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// The text for every device.
    pub plain: &'static str,
    /// The text for devices with subgroup operations, where it differs.
    pub subgroup: Option<&'static str>,
}

/// An `override NAME: u32 = default;` line of the text.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// The constant.
    pub name: &'static str,
    /// Value where nothing is said, as in the text.
    pub default: u32,
    /// Every value that the engine may choose; tests try them all.
    pub values: &'static [u32],
}

/// Fields of a `#[repr(C)]` struct of 4-byte scalars, by name and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Name and offset in bytes.
    pub fields: &'static [(&'static str, usize)],
    /// Size in bytes.
    pub size_bytes: usize,
}

impl Knob {
    pub(crate) const fn new(name: &'static str, default: u32, values: &'static [u32]) -> Self {
        Self {
            name,
            default,
            values,
        }
    }
}

/// The uniform of a kernel, and its [`Layout`]: `params! { width: u32, eps: f32 }`. A macro, since only
/// one can name fields twice.
macro_rules! params {
    ($($(#[$doc:meta])* $field:ident: $type:ty),* $(,)?) => {
        /// The uniform, as the text has it.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct Params {
            $($(#[$doc])* $field: $type,)*
        }

        impl Params {
            const LAYOUT: $crate::kernel::Layout = $crate::kernel::Layout {
                fields: &[$((stringify!($field), std::mem::offset_of!(Self, $field))),*],
                size_bytes: std::mem::size_of::<Self>(),
            };
        }
    };
}
pub(crate) use params;

/// What one launch moves and computes, by formula: every byte that the algorithm needs from memory
/// once a workgroup, no cache assumed beyond it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Floating-point operations; a multiply-add is two.
    pub flops: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
        self.flops += other.flops;
    }
}

/// What is chosen once per adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuning {
    /// Use the subgroup texts.
    pub subgroups: bool,
    /// Few fat threads instead of many thin ones: for drivers that run shaders on a CPU.
    pub fat_threads: bool,
}

/// One launch, complete but for its buffers.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Knobs that differ from their default.
    pub knobs: Vec<(&'static str, u32)>,
    /// Whether the subgroup texts are used.
    pub subgroups: bool,
    /// `Params` as bytes.
    pub params: Vec<u8>,
    /// Workgroups.
    pub groups: [u32; 3],
    /// What it costs.
    pub cost: Cost,
}

/// Most workgroups in one dimension that every adapter grants.
pub const MAX_GROUPS: u32 = 65_535;

/// `n` workgroups over two dimensions: `x` fills up first. Kernels count
/// `group.x + group.y * MAX_GROUPS` and leave what is beyond `n`.
pub fn spread(n: u32) -> [u32; 2] {
    [n.clamp(1, MAX_GROUPS), n.div_ceil(MAX_GROUPS).max(1)]
}

impl Kernel {
    /// The text to compile, every knob fixed.
    ///
    /// # Panics
    /// A knob that the kernel does not have: our own mistake, found by the table's tests.
    pub fn source(&self, knobs: &[(&str, u32)], subgroups: bool) -> String {
        for (name, value) in knobs {
            let known = self.knobs.iter().any(|knob| knob.name == *name);
            assert!(known, "{} has no knob {name} (set to {value})", self.name);
        }
        let mut text = String::new();
        for piece in self.pieces {
            let piece = match (subgroups, piece.subgroup) {
                (true, Some(subgroup)) => subgroup,
                _ => piece.plain,
            };
            for line in piece.lines() {
                match fixed(line, knobs) {
                    Some(line) => text.push_str(&line),
                    None => text.push_str(line),
                }
                text.push('\n');
            }
        }
        text
    }

    /// Whether it has another text for subgroups.
    pub fn has_subgroup_text(&self) -> bool {
        self.pieces.iter().any(|piece| piece.subgroup.is_some())
    }
}

/// An `override` line with its value, as a `const` line.
fn fixed(line: &str, knobs: &[(&str, u32)]) -> Option<String> {
    let rest = line.strip_prefix("override ")?;
    let (name, default) = rest.split_once(':')?;
    match knobs.iter().find(|(knob, _)| *knob == name.trim()) {
        Some((_, value)) => Some(format!("const {name}: u32 = {value}u;")),
        None => Some(format!("const {name}:{default}")),
    }
}
