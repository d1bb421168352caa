//! Runs one kernel on each adapter through plain wgpu, which checks bounds and zeroes workgroup
//! memory nowhere the engine would rely on it: a second opinion beside the engine's own launches.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use shaders::kernel::{Dispatch, Tuning};

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
    ALL.get_or_init(|| {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::PRIMARY,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
        adapters.into_iter().map(open).collect()
    })
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
    /// Every tuning that this adapter can run.
    pub fn tunings(&self) -> Vec<Tuning> {
        let mut all = Vec::new();
        for subgroups in [false, true] {
            for fat_threads in [false, true] {
                if self.subgroups || !subgroups {
                    all.push(Tuning {
                        subgroups,
                        fat_threads,
                    });
                }
            }
        }
        all
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

/// `n` words that no kernel should leave where it was to write: NaN as `f32`, odd as an integer.
pub fn garbage(n: usize) -> Vec<u32> {
    vec![0xffff_fe5d; n]
}

/// Fails unless every value is within `tolerance` of what is expected, relative to the largest
/// expected magnitude of `row` neighbours; NaN is close to nothing.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let scale = expected
        .iter()
        .fold(1e-6, |most: f64, value| most.max(value.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        assert!(
            off <= tolerance * scale,
            "{what}: element {at} is {found}, expected {expected} within {tolerance:e} of {scale:e}"
        );
    }
}
