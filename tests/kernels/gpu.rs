//! Runs one kernel on each adapter through plain wgpu, which checks bounds and zeroes workgroup
//! memory nowhere the engine would rely on it: a second opinion beside the engine's own launches.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use shaders::{Dispatch, Kernel, Tuning};

use crate::found;

/// An adapter that is open.
pub struct Gpu {
    pub name: String,
    pub subgroups: bool,
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipelines: Mutex<HashMap<String, wgpu::ComputePipeline>>,
}

/// Words behind every buffer that no kernel may touch.
const GUARD: [u32; 8] = [0xdead_beef; 8];

/// Every adapter of this machine.
pub fn all() -> &'static [Gpu] {
    static ALL: OnceLock<Vec<Gpu>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::PRIMARY,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
        adapters.into_iter().map(open).collect()
    });
    found(all.iter().collect());
    all
}

/// Every adapter at every tuning that makes a difference to a kernel.
pub fn each(kernel: &Kernel, mut work: impl FnMut(&Gpu, &Tuning)) {
    for gpu in all() {
        for subgroups in [false, true] {
            for fat_threads in [false, true] {
                if !subgroups || gpu.subgroups && kernel.has_subgroup_text() {
                    let tuning = Tuning {
                        subgroups,
                        fat_threads,
                    };
                    work(gpu, &tuning);
                }
            }
        }
    }
}

/// How near the words of a binding must be to those of the reference.
pub enum Near {
    /// As f32, within a tolerance relative to the largest expected magnitude of a row of so many words.
    Rows(usize, f64),
    /// As packed numbers, which the test compares itself.
    Packed,
}

/// [`Gpu::check`] on every adapter at every tuning.
pub fn check(plan: impl Fn(&Tuning) -> Dispatch, buffers: &[Vec<u32>], near: &[(&str, Near)]) {
    let tuning = |subgroups, fat_threads| Tuning {
        subgroups,
        fat_threads,
    };
    each(plan(&tuning(false, false)).kernel, |gpu, tuning| {
        gpu.check(&plan(tuning), buffers, near);
    });
}

fn open(adapter: wgpu::Adapter) -> Gpu {
    let subgroups = adapter.features().contains(wgpu::Features::SUBGROUP);
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features() & wgpu::Features::SUBGROUP,
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    Gpu {
        name: adapter.get_info().name,
        subgroups,
        device,
        queue,
        pipelines: Mutex::default(),
    }
}

impl Gpu {
    /// Runs the launch twice and its reference once, each on a copy of `buffers`; gives what the kernel
    /// and what the reference have left. Both runs must leave the same bits, and each word must be the
    /// reference's or, in the bindings that are named, near it: where that has left garbage, garbage.
    #[track_caller]
    pub fn check(
        &self,
        dispatch: &Dispatch,
        buffers: &[Vec<u32>],
        near: &[(&str, Near)],
    ) -> [Vec<Vec<u32>>; 2] {
        let Dispatch { kernel, knobs, .. } = dispatch;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&dispatch.params);
        let names = kernel.params.fields.iter().map(|(name, _)| *name);
        let params: Vec<(&str, u32)> = names.zip(words).collect();
        let what = format!("{} on {}: {knobs:?} {params:?}", kernel.name, self.name);
        let [mut found, mut again, mut expected] = [(); 3].map(|()| buffers.to_vec());
        dispatch.run_reference(&mut expected);
        self.run(dispatch, &mut found);
        self.run(dispatch, &mut again);
        assert!(found == again, "{what}: not the same bits twice");
        for (name, _) in near {
            assert!(kernel.bindings.contains(name), "{what}: no {name}");
        }
        for (name, (found, expected)) in kernel.bindings.iter().zip(found.iter().zip(&expected)) {
            let what = format!("{what}: {name}");
            let near = near.iter().find(|(binding, _)| binding == name);
            let differs = |(found, expected): (&u32, &u32)| match near {
                None => found != expected,
                Some(_) => (*found == GARBAGE) != (*expected == GARBAGE),
            };
            if let Some((_, Near::Rows(row, tolerance))) = near {
                assert_close(found, expected, *row, *tolerance, &what);
            } else if let Some(at) = found.iter().zip(expected).position(differs) {
                let [found, expected] = [found[at], expected[at]];
                panic!("{what}: word {at} is {found:#x}, expected {expected:#x} or near it");
            }
        }
        [found, expected]
    }

    /// Runs the dispatch once; `buffers` are the storage bindings in order and hold their contents
    /// afterwards. Nothing may have been written behind their ends.
    pub fn run(&self, dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
        let kernel = dispatch.kernel;
        assert_eq!(buffers.len(), kernel.bindings.len(), "{}", kernel.name);
        let source = kernel.source(&dispatch.knobs, dispatch.subgroups);
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let pipeline = self.pipeline(kernel.name, source);
        let storage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let on_gpu: Vec<wgpu::Buffer> = buffers
            .iter()
            .map(|words| {
                let with_guard: Vec<u32> = words.iter().chain(&GUARD).copied().collect();
                self.buffer(bytemuck::cast_slice(&with_guard), storage)
            })
            .collect();
        let mut params = dispatch.params.clone();
        params.resize(params.len().next_multiple_of(16).max(16), 0);
        let params = self.buffer(
            &params,
            wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        );
        let entries: Vec<_> = on_gpu
            .iter()
            .chain([&params])
            .enumerate()
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            let [x, y, z] = dispatch.groups;
            pass.dispatch_workgroups(x, y, z);
        }
        let read: Vec<wgpu::Buffer> = on_gpu
            .iter()
            .map(|buffer| {
                let to = self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: buffer.size(),
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                encoder.copy_buffer_to_buffer(buffer, 0, &to, 0, buffer.size());
                to
            })
            .collect();
        self.queue.submit([encoder.finish()]);
        for buffer in &read {
            buffer.slice(..).map_async(wgpu::MapMode::Read, |_| ());
        }
        self.device
            .poll(wgpu::PollType::wait_indefinitely())
            .unwrap();
        let error = pollster::block_on(scope.pop());
        assert!(error.is_none(), "{}: {error:?}", kernel.name);
        for (at, (words, buffer)) in buffers.iter_mut().zip(&read).enumerate() {
            let mapped = buffer.slice(..).get_mapped_range().unwrap();
            let all: &[u32] = bytemuck::cast_slice(&mapped);
            let (inside, behind) = all.split_at(words.len());
            assert_eq!(
                behind, GUARD,
                "{} wrote behind {}",
                kernel.name, kernel.bindings[at]
            );
            words.copy_from_slice(inside);
        }
    }

    /// Compiling takes most of the time of a test, and many cases share a text.
    fn pipeline(&self, name: &str, source: String) -> wgpu::ComputePipeline {
        let mut known = self.pipelines.lock().unwrap();
        if let Some(pipeline) = known.get(&source) {
            return pipeline.clone();
        }
        let pipeline = self.compile(name, &source);
        known.insert(source, pipeline.clone());
        pipeline
    }

    fn compile(&self, name: &str, source: &str) -> wgpu::ComputePipeline {
        let module = self
            .device
            .create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(name),
                source: wgpu::ShaderSource::Wgsl(source.into()),
            });
        self.device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: None,
                module: &module,
                entry_point: Some(name),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // As the engine launches: nothing is zero by itself.
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            })
    }

    fn buffer(&self, bytes: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes.len() as u64,
            usage,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&buffer, 0, bytes);
        buffer
    }
}

/// `f32` values as words.
pub fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Words as `f32` values.
pub fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|&word| f32::from_bits(word)).collect()
}

/// What no kernel should leave where it was to write: NaN as `f32`, odd as an integer.
const GARBAGE: u32 = 0xffff_fe5d;

/// `n` words of it.
pub fn garbage(n: usize) -> Vec<u32> {
    vec![GARBAGE; n]
}

/// Fails unless every `f32` is within `tolerance` of what is expected, relative to the largest expected
/// magnitude of its row of `row` words. What is expected to be garbage, NaN or infinite must be that.
#[track_caller]
pub fn assert_close(found: &[u32], expected: &[u32], row: usize, tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let value = |word: &u32| f64::from(f32::from_bits(*word));
    for (at, (found, expected)) in found.chunks(row).zip(expected.chunks(row)).enumerate() {
        let finite = expected.iter().map(value).filter(|value| value.is_finite());
        let scale = finite.fold(1e-30, |most: f64, value| most.max(value.abs()));
        for (column, (word, wanted)) in found.iter().zip(expected).enumerate() {
            let [found, expected] = [word, wanted].map(value);
            let same = word == wanted
                || (expected.is_nan() && found.is_nan() && ![word, wanted].contains(&&GARBAGE));
            assert!(
                same || (found - expected).abs() <= tolerance * scale,
                "{what}: row {at} column {column} is {found} ({word:#x}), expected {expected} \
                 ({wanted:#x}) within {tolerance:e} of {scale:e}"
            );
        }
    }
}

#[test]
fn rows_are_compared_by_their_own_scale_and_garbage_is_seen() {
    let close = |found: &[f32], expected: &[f32]| {
        let [found, expected] = [found, expected].map(words);
        std::panic::catch_unwind(|| assert_close(&found, &expected, 2, 1e-3, "")).is_ok()
    };
    let garbage = f32::from_bits(GARBAGE);
    assert!(close(&[1000.5, 0.9, 0.1, 0.1], &[1000.0, 0.0, 0.1, 0.1]));
    assert!(!close(&[1000.0, 0.0, 0.102, 0.1], &[1000.0, 0.0, 0.1, 0.1]));
    assert!(close(&[f32::NAN, 1.0], &[-f32::NAN, 1.0]));
    assert!(close(&[garbage, f32::INFINITY], &[garbage, f32::INFINITY]));
    for (found, expected) in [
        (f32::NAN, 0.0),
        (0.0, f32::NAN),
        (garbage, f32::NAN),
        (f32::NAN, garbage),
        (f32::MAX, f32::INFINITY),
    ] {
        assert!(
            !close(&[found, 1.0], &[expected, 1.0]),
            "{found} {expected}"
        );
    }
}
