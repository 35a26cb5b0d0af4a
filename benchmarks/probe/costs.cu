// What the parts of a fused rollout cost on this GPU: barriers, shared memory of one's own and of a neighbour,
// launches, weights that stream from L2, and arithmetic on registers. One JSON object on stdout; null where this GPU
// lacks the feature, or where the measurement failed (then stderr says why, and the exit status is 1).
//
//   nvcc -std=c++17 -O3 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_80,code=sm_80 costs.cu -o costs
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>

namespace {

// --- Devices' side: primitives.

__device__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ uint32_t cluster_rank() {
  uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}

// Where the block `rank` of the cluster holds what lies at `address` here.
__device__ uint32_t peer_address(uint32_t address, uint32_t rank) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(address), "r"(rank));
#endif
  return address;
}

__device__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

__device__ float random_value(uint32_t seed) {  // in [-1, 1)
  seed = (seed ^ 61u ^ (seed >> 16)) * 9u;
  seed = (seed ^ (seed >> 4)) * 0x27d4eb2du;
  return static_cast<float>(static_cast<int32_t>(seed ^ (seed >> 15))) * 0x1p-31f;
}

// A result has to go somewhere, or the compiler drops what leads to it. No result is this number.
__device__ void keep(float value, float* out) {
  if (value == 1.2345e-30f) *out = value;
}

// --- Barriers.

__global__ void grid_barriers(int count) {
  auto grid = cooperative_groups::this_grid();
  for (int i = 0; i < count; ++i) grid.sync();
}

// One release-add and an acquiring spin per block, by its first thread. `counter` starts at zero.
__global__ void atomic_barriers(uint32_t* counter, int count) {
  for (int i = 1; i <= count; ++i) {
    __syncthreads();
    if (threadIdx.x == 0) {
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
      uint32_t arrived = 0;
      do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(counter) : "memory");
      while (arrived < i * gridDim.x);
    }
    __syncthreads();
  }
}

// Ordering every access of the blocks, or (relaxed) their arrival alone, which shows what the ordering adds.
template <bool kOrdered>
__global__ void cluster_barriers(int count) {
  for (int i = 0; i < count; ++i) {
    if (kOrdered) {
      cluster_sync();
    } else {
#if __CUDA_ARCH__ >= 900
      asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
    }
  }
}

// --- Shared memory.

constexpr int kChaseLinks = 1024, kChaseLoads = 4096;

// Cycles of a load whose address is the result of the one before, from this block's memory or from its neighbour's.
template <bool kRemote>
__global__ void chase(float* cycles) {
  __shared__ uint32_t next[kChaseLinks];
  uint32_t base = shared_address(next);
  if (kRemote) base = peer_address(base, cluster_rank());
  for (int i = threadIdx.x; i < kChaseLinks; i += blockDim.x) next[i] = base + 4 * ((i + 97) % kChaseLinks);
  __syncthreads();
  cluster_sync();
  if (threadIdx.x == 0 && blockIdx.x == 0) {
    uint32_t address = kRemote ? peer_address(shared_address(next), 1) : base;
    const int64_t start = clock64();
#pragma unroll 16
    for (int i = 0; i < kChaseLoads; ++i) {
      if (kRemote) {
#if __CUDA_ARCH__ >= 900
        asm volatile("ld.shared::cluster.u32 %0, [%0];" : "+r"(address)::"memory");
#endif
      } else {
        asm volatile("ld.shared.u32 %0, [%0];" : "+r"(address)::"memory");
      }
    }
    const int64_t stop = clock64();
    *cycles = address == 0 ? 0.0f : static_cast<float>(stop - start) / kChaseLoads;
  }
  cluster_sync();  // the neighbour's memory must outlive the loads
}

constexpr int kStoreThreads = 512, kStoresPerTurn = 4;

// Every block of a cluster writes 16 bytes a thread and store to each of the others. The cluster's size is a power
// of 2.
__global__ void __launch_bounds__(kStoreThreads) peer_stores(int turns, uint32_t cluster) {
  __shared__ float4 target[kStoresPerTurn * kStoreThreads];
  cluster_sync();
  for (uint32_t other = 1; other < cluster; ++other) {
    const uint32_t address = peer_address(shared_address(target + threadIdx.x), cluster_rank() ^ other);
    for (int i = 0; i < turns; ++i) {
#pragma unroll
      for (int j = 0; j < kStoresPerTurn; ++j) {
#if __CUDA_ARCH__ >= 900
        asm volatile("st.shared::cluster.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(address + 16 * kStoreThreads * j), "r"(i)
                     : "memory");
#else
        target[threadIdx.x] = make_float4(address, 0, 0, 0);
#endif
      }
    }
  }
  cluster_sync();
}

constexpr int kReadThreads = 512, kReadsPerTurn = 16;

// Consecutive lanes read consecutive words.
__global__ void __launch_bounds__(kReadThreads) shared_reads(int turns, float* out) {
  __shared__ float data[kReadThreads + 32 * kReadsPerTurn];
  for (int i = threadIdx.x; i < kReadThreads + 32 * kReadsPerTurn; i += blockDim.x) data[i] = random_value(i);
  __syncthreads();
  const uint32_t address = shared_address(data + threadIdx.x);
  float sum = 0;
  for (int i = 0; i < turns; ++i) {
#pragma unroll
    for (int j = 0; j < kReadsPerTurn; ++j) {
      float value;
      asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address + 4 * 32 * j));
      sum += value;
    }
  }
  keep(sum, out);
}

// --- L2: every block reads all of `data`, as blocks that stream the same weights do.

constexpr int kStreamThreads = 512, kStreamLoads = 8;

__global__ void __launch_bounds__(kStreamThreads) stream_from_l2(const float4* data, int count, int turns, float* out) {
  float sum = 0;
  for (int turn = 0; turn < turns; ++turn) {
    for (int i = threadIdx.x; i < count; i += kStreamLoads * kStreamThreads) {
      float4 value[kStreamLoads];
#pragma unroll
      for (int j = 0; j < kStreamLoads; ++j) value[j] = __ldcg(data + i + j * kStreamThreads);  // past the L1 cache
#pragma unroll
      for (int j = 0; j < kStreamLoads; ++j) sum += value[j].x + value[j].y + value[j].z + value[j].w;
    }
  }
  keep(sum, out);
}

// --- Arithmetic on registers. Each struct is one accumulator of a warp and what it is fed with.

struct Ffma {
  static constexpr double kFlop = 2.0 * 32;
  float a, b, c;
  __device__ explicit Ffma(uint32_t seed) : a(random_value(seed)), b(random_value(seed + 1)), c(0) {}
  __device__ void step() { c = fmaf(a, c, b); }
  __device__ float result() const { return c; }
};

struct Tf32 {
  static constexpr double kFlop = 2.0 * 16 * 8 * 8;
  uint32_t a[4], b[2];
  float c[4] = {};
  __device__ explicit Tf32(uint32_t seed) {
    for (int i = 0; i < 4; ++i) a[i] = __float_as_uint(random_value(seed + i));
    for (int i = 0; i < 2; ++i) b[i] = __float_as_uint(random_value(seed + 4 + i));
  }
  __device__ void step() {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  __device__ float result() const { return c[0] + c[1] + c[2] + c[3]; }
};

struct Bf16 {
  static constexpr double kFlop = 2.0 * 16 * 8 * 16;
  uint32_t a[4], b[2];
  float c[4] = {};
  // Two bfloat16 in a word, each of random sign and mantissa and between 1/2 and 1.
  __device__ static uint32_t pair(uint32_t seed) {
    return (__float_as_uint(random_value(seed)) * 0x9e3779b9u & 0x807f807fu) | 0x3f003f00u;
  }
  __device__ explicit Bf16(uint32_t seed) {
    for (int i = 0; i < 4; ++i) a[i] = pair(seed + i);
    for (int i = 0; i < 2; ++i) b[i] = pair(seed + 4 + i);
  }
  __device__ void step() {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  __device__ float result() const { return c[0] + c[1] + c[2] + c[3]; }
};

struct Fp64 {
  static constexpr double kFlop = 2.0 * 8 * 8 * 4;
  double a, b, c[2] = {};
  __device__ explicit Fp64(uint32_t seed) : a(random_value(seed)), b(random_value(seed + 1)) {}
  __device__ void step() {
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+d"(c[0]), "+d"(c[1])
                 : "d"(a), "d"(b));
  }
  __device__ float result() const { return static_cast<float>(c[0] + c[1]); }
};

constexpr int kRateThreads = 256, kAccumulators = 8;

template <class Op>
__global__ void __launch_bounds__(kRateThreads) arithmetic(int turns, float* out) {
  const uint32_t seed = 997 * (blockIdx.x * blockDim.x + threadIdx.x);
  Op ops[kAccumulators] = {Op(seed),      Op(seed + 10), Op(seed + 20), Op(seed + 30),
                           Op(seed + 40), Op(seed + 50), Op(seed + 60), Op(seed + 70)};
#pragma unroll 4
  for (int i = 0; i < turns; ++i) {
#pragma unroll
    for (int j = 0; j < kAccumulators; ++j) ops[j].step();
  }
  float sum = 0;
  for (int j = 0; j < kAccumulators; ++j) sum += ops[j].result();
  keep(sum, out);
}

__global__ void empty() {}
__global__ void all_of_shared_memory() {}

// --- Host's side.

void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}
#define CHECK(call) check((call), #call)

struct Shape {
  int blocks, threads;
  int cluster = 1;
  bool cooperative = false;  // all blocks at once, or an error
  size_t shared = 0;         // bytes, dynamic
};

struct Configuration : cudaLaunchConfig_t {
  cudaLaunchAttribute attributes[2] = {};

  explicit Configuration(const Shape& shape) : cudaLaunchConfig_t{} {
    gridDim = dim3(shape.blocks);
    blockDim = dim3(shape.threads);
    dynamicSmemBytes = shape.shared;
    attrs = attributes;
    if (shape.cluster > 1) {
      attributes[numAttrs].id = cudaLaunchAttributeClusterDimension;
      attributes[numAttrs++].val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
    }
    if (shape.cooperative) {
      attributes[numAttrs].id = cudaLaunchAttributeCooperative;
      attributes[numAttrs++].val.cooperative = 1;
    }
  }
  Configuration(const Configuration&) = delete;  // `attrs` points into it
};

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Shape& shape, Arguments... arguments) {
  const Configuration configuration(shape);
  CHECK(cudaLaunchKernelEx(&configuration, kernel, static_cast<Parameters>(arguments)...));
}

// How many clusters of this kernel and shape fit on the GPU at once.
template <class... Parameters>
int active_clusters(void (*kernel)(Parameters...), const Shape& shape) {
  if (shape.cluster > 8) CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  if (shape.shared)
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared)));
  const Configuration configuration(shape);
  int clusters = 0;
  CHECK(cudaOccupancyMaxActiveClusters(&clusters, kernel, &configuration));
  return clusters;
}

// The shortest of several runs between two events, in seconds.
template <class Work>
double seconds(Work work) {
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  work();
  CHECK(cudaDeviceSynchronize());
  float best = std::numeric_limits<float>::infinity();
  for (int i = 0; i < 7; ++i) {
    float milliseconds = 0;
    CHECK(cudaEventRecord(start));
    work();
    CHECK(cudaEventRecord(stop));
    CHECK(cudaEventSynchronize(stop));
    CHECK(cudaEventElapsedTime(&milliseconds, start, stop));
    best = std::min(best, milliseconds);
  }
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(stop));
  return 1e-3 * best;
}

// Seconds of one turn: a long run less a short one, so that the launch drops out.
template <class Work>
double seconds_per_turn(int turns, Work work) {
  return (seconds([&] { work(3 * turns); }) - seconds([&] { work(turns); })) / (2 * turns);
}

struct Device {
  cudaDeviceProp properties{};
  float* scratch = nullptr;  // kScratch bytes
  static constexpr size_t kScratch = 4 << 20;

  Device() {
    CHECK(cudaSetDevice(0));
    CHECK(cudaGetDeviceProperties(&properties, 0));
    CHECK(cudaMalloc(&scratch, kScratch));
    CHECK(cudaMemset(scratch, 0, kScratch));
  }
  int blocks() const { return properties.multiProcessorCount; }
  bool has_clusters() const { return properties.major >= 9; }
};

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

class Report {
 public:
  bool failed = false;

  template <class Measurement>
  void add(const std::string& name, Measurement measurement) {
    double value = kMissing;
    try {
      value = measurement();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s: %s\n", name.c_str(), error.what());
      cudaGetLastError();  // what follows may still work
      failed = true;
    }
    char text[32] = "null";
    if (std::isfinite(value)) std::snprintf(text, sizeof(text), "%.6g", value);
    entries_ += ",\n \"" + name + "\": " + text;
  }
  void print(const cudaDeviceProp& properties) const {
    std::printf("{\n \"device\": \"%s\",\n \"capability\": \"%d.%d\"%s\n}\n", properties.name, properties.major,
                properties.minor, entries_.c_str());
  }

 private:
  std::string entries_;
};

void measure_barriers(const Device& device, Report* report) {
  for (const int threads : {256, 512}) {
    report->add("grid_sync_" + std::to_string(threads) + "_threads_us", [&] {
      const Shape shape{device.blocks(), threads, 1, true};
      return 1e6 * seconds_per_turn(1000, [&](int count) { launch(grid_barriers, shape, count); });
    });
  }
  for (const int blocks : {16, device.blocks()}) {
    const std::string where = blocks == 16 ? "16_blocks" : "grid";
    report->add("atomic_barrier_" + where + "_us", [&] {
      auto* counter = reinterpret_cast<uint32_t*>(device.scratch);
      return 1e6 * seconds_per_turn(1000, [&](int count) {
               CHECK(cudaMemsetAsync(counter, 0, sizeof(*counter)));
               launch(atomic_barriers, Shape{blocks, 256, 1, true}, counter, count);
             });
    });
  }
  const auto measure_clusters = [&](const std::string& name, void (*kernel)(int)) {
    for (const int size : {2, 4, 8, 16}) {
      report->add(name + std::to_string(size) + "_us", [&] {
        const Shape shape{size, 256, size};
        if (!device.has_clusters() || active_clusters(kernel, shape) == 0) return kMissing;
        return 1e6 * seconds_per_turn(5000, [&](int count) { launch(kernel, shape, count); });
      });
    }
  };
  measure_clusters("cluster_barrier_", cluster_barriers<true>);
  measure_clusters("cluster_barrier_relaxed_", cluster_barriers<false>);
}

void measure_shared_memory(const Device& device, Report* report) {
  auto read_cycles = [&](void (*kernel)(float*), const Shape& shape) {
    float cycles = 0;
    for (int i = 0; i < 2; ++i) launch(kernel, shape, device.scratch);  // the first loads the code
    CHECK(cudaMemcpy(&cycles, device.scratch, sizeof(cycles), cudaMemcpyDeviceToHost));
    return static_cast<double>(cycles);
  };
  report->add("shared_latency_cycles", [&] { return read_cycles(chase<false>, Shape{1, 32}); });
  report->add("dsmem_latency_cycles",
              [&] { return device.has_clusters() ? read_cycles(chase<true>, Shape{2, 32, 2}) : kMissing; });
  for (const int size : {2, 4, 8, 16}) {
    report->add("dsmem_store_" + std::to_string(size) + "_gbs_per_sm", [&] {
      const Shape one{size, kStoreThreads, size};
      const int clusters = device.has_clusters() ? active_clusters(peer_stores, one) : 0;
      if (clusters == 0) return kMissing;
      const Shape all{size * clusters, kStoreThreads, size};
      const double turn = seconds_per_turn(500, [&](int turns) { launch(peer_stores, all, turns, size); });
      const double blocks_per_sm = std::max(1.0, static_cast<double>(all.blocks) / device.blocks());
      return blocks_per_sm * (size - 1) * kStoresPerTurn * kStoreThreads * 16 / turn / 1e9;
    });
  }
  report->add("shared_read_gbs_per_sm", [&] {
    const Shape shape{device.blocks(), kReadThreads};
    const double turn = seconds_per_turn(5000, [&](int turns) { launch(shared_reads, shape, turns, device.scratch); });
    return kReadsPerTurn * kReadThreads * 4 / turn / 1e9;
  });
  for (const int size : {8, 16}) {
    for (const int kilobytes : {200, 227}) {
      report->add("active_clusters_" + std::to_string(size) + "_of_" + std::to_string(kilobytes) + "_kb", [&] {
        if (!device.has_clusters()) return kMissing;
        const Shape shape{size, 256, size, false, static_cast<size_t>(kilobytes) << 10};
        return static_cast<double>(active_clusters(all_of_shared_memory, shape));
      });
    }
  }
}

void measure_launches(Report* report) {
  constexpr int kLaunches = 1000;
  report->add("stream_launch_us", [&] {
    return 1e6 / kLaunches * seconds([&] {
             for (int i = 0; i < kLaunches; ++i) launch(empty, Shape{1, 32});
           });
  });
  report->add("graph_node_us", [&] {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < kLaunches; ++i) empty<<<1, 32, 0, stream>>>();
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&executable, graph, 0));
    const double total = seconds([&] { CHECK(cudaGraphLaunch(executable, nullptr)); });
    CHECK(cudaGraphExecDestroy(executable));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
    return 1e6 / kLaunches * total;
  });
}

template <class Op>
double teraflops(const Device& device) {
  const Shape shape{device.blocks(), kRateThreads};
  const double turn = seconds_per_turn(10000, [&](int turns) { launch(arithmetic<Op>, shape, turns, device.scratch); });
  return Op::kFlop * kAccumulators * (kRateThreads / 32) * device.blocks() / turn / 1e12;
}

void measure_rates(const Device& device, Report* report) {
  report->add("l2_stream_gbs", [&] {
    const auto* data = reinterpret_cast<const float4*>(device.scratch);
    const int count = Device::kScratch / sizeof(float4);
    const Shape shape{device.blocks(), kStreamThreads};
    const double turn =
        seconds_per_turn(20, [&](int turns) { launch(stream_from_l2, shape, data, count, turns, device.scratch); });
    return static_cast<double>(Device::kScratch) * device.blocks() / turn / 1e9;
  });
  report->add("ffma_tflops", [&] { return teraflops<Ffma>(device); });
  report->add("mma_tf32_tflops", [&] { return teraflops<Tf32>(device); });
  report->add("mma_bf16_tflops", [&] { return teraflops<Bf16>(device); });
  report->add("mma_f64_tflops", [&] { return teraflops<Fp64>(device); });
}

}  // namespace

int main() {
  try {
    const Device device;
    Report report;
    report.add("multiprocessors", [&] { return static_cast<double>(device.blocks()); });
    measure_barriers(device, &report);
    measure_shared_memory(device, &report);
    measure_launches(&report);
    measure_rates(device, &report);
    report.print(device.properties);
    return report.failed ? 1 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
