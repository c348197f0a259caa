// The CUDA op pair for tensors on the CPU, as seqcuda_emulated::sequence and sequence_backward, and the emulator's
// knobs.
#include <ATen/ops/from_blob.h>
#include <torch/library.h>

#include <cstring>
#include <memory>

#include "cuda/cluster.h"
#include "emulator.h"
#include "ops/cuda/common.h"
#include "ops/cuda/engines.h"
#include "ops/cuda/sequence.h"
#include "ops/mask.h"
#include "ops/stack.h"
#include "ops/tuned.h"
#include "self_test.h"

namespace {
int64_t stream_of_caller = 0, stream_now = 0;
int64_t products_until_out_of_memory = -1;
}  // namespace

// In the place of csrc/ops/cuda/device.cpp.
namespace seq::ops {

static c10::Stream numbered(const at::Device& device, int64_t stream) {
  return c10::Stream(c10::Stream::UNSAFE, device, stream);
}
static cuda::Stream pointer(int64_t stream) { return reinterpret_cast<cuda::Stream>(stream); }

c10::Stream current_stream(const at::Device& device) { return numbered(device, stream_now); }

cuda::Stream launch_stream(const at::Device&) { return pointer(stream_now); }

c10::Stream exchange_stream(const c10::Stream& stream) {
  return numbered(stream.device(), std::exchange(stream_now, stream.id()));
}

c10::Stream side_stream(const at::Device& device, int64_t i) { return numbered(device, 1000 + i); }

void wait_for(const c10::Stream& waiting, const c10::Stream& awaited) {
  check_launch(emulation::wait_for(pointer(waiting.id()), pointer(awaited.id()), pointer(stream_of_caller)));
}

int compute_capability(const at::Device&) { return emulation::capability; }

// Without the memory, which whoever has it keeps for as long as work needs it.
static at::Tensor borrowed(const at::Tensor& t) {
  return at::from_blob(t.data_ptr(), t.sizes(), t.strides(), t.options());
}

// Work of torch's own.
template <class Call, class... Tensors>
static void give(const Call& call, const Tensors&... tensors) {
  check_launch(emulation::give(pointer(stream_now), [call, ... given = borrowed(tensors)]() -> const char* {
    call(given...);
    return nullptr;
  }));
}

template <class Call>
static void give_product(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const Call& call) {
  TORCH_CHECK_WITH(OutOfMemoryError, products_until_out_of_memory-- != 0, "out of memory, on purpose");
  const auto work = [=](const at::Tensor& to, const at::Tensor& left, const at::Tensor& right) {
    const at::ScalarType summed = to.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    at::Tensor sums = to.to(summed);
    call(sums, left.to(summed), right.to(summed));
    to.copy_(sums);  // itself, but for half types
  };
  give(work, out, a, b);
}

void product_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  give_product(out, a, b, [](at::Tensor& sums, const at::Tensor& left, const at::Tensor& right) {
    sums.dim() == 3 ? at::bmm_out(sums, left, right) : at::mm_out(sums, left, right);
  });
}

void add_product_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  give_product(out, a, b, [](at::Tensor& sums, const at::Tensor& left, const at::Tensor& right) {
    sums.dim() == 3 ? at::baddbmm_out(sums, sums, left, right) : at::addmm_out(sums, sums, left, right);
  });
}

void copy_into(const at::Tensor& to, const at::Tensor& from) {
  give([](const at::Tensor& out, const at::Tensor& in) { out.copy_(in); }, to, from);
}

void set_to_zero(const at::Tensor& t) {
  give([](const at::Tensor& out) { out.zero_(); }, t);
}

static at::Tensor sum_for(const at::Tensor& out, const at::Tensor& rows) {
  return rows.sum(1, /*keepdim=*/false, out.scalar_type());
}

void sum_into(const at::Tensor& out, const at::Tensor& t) {
  give([](const at::Tensor& sum, const at::Tensor& rows) { sum.copy_(sum_for(sum, rows)); }, out, t);
}

void add_sum_into(const at::Tensor& out, const at::Tensor& t) {
  give([](const at::Tensor& sum, const at::Tensor& rows) { sum.add_(sum_for(sum, rows)); }, out, t);
}

namespace {

// As torch's on CUDA: what is freed may still be used by what the stream that it was taken on has been given.
class StreamAllocator : public at::Allocator {
 public:
  at::DataPtr allocate(size_t bytes) override {
    const int64_t stream = emulation::one_memory() ? stream_of_caller : stream_now;
    auto* const block = new Block{usual_->allocate(bytes), bytes, stream};
    return {block->memory.get(), block, &give_back, at::kCPU};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  // While it lives, tensors are allocated so.
  struct Use {
    Use() { at::SetAllocator(at::kCPU, &only()); }
    ~Use() {
      at::SetAllocator(at::kCPU, only().usual_);
      only().freed_.clear();
    }
    Use(const Use&) = delete;
  };

 private:
  struct Block {
    at::DataPtr memory;
    size_t bytes;
    int64_t stream;
  };

  static StreamAllocator& only() {
    static StreamAllocator allocator;
    return allocator;
  }
  static void give_back(void* pointer_to_block) {
    const std::unique_ptr<Block> block(static_cast<Block*>(pointer_to_block));
    if (at::GetAllocator(at::kCPU) != &only()) return;
    // NaN to whoever comes too late.
    emulation::give_unawaited(pointer(block->stream), [data = block->memory.get(), bytes = block->bytes] {
      std::memset(data, 0xff, bytes);
      return static_cast<const char*>(nullptr);
    });
    only().freed_.push_back(std::move(block->memory));
  }

  at::Allocator* const usual_ = at::GetAllocator(at::kCPU);
  std::vector<at::DataPtr> freed_;
};

}  // namespace

}  // namespace seq::ops

namespace {

void set_fault(const std::string& name) {
  using emulation::Fault;
  static const std::map<std::string, Fault> faults{{"none", Fault::kNone},
                                                   {"no barriers", Fault::kNoBarriers},
                                                   {"shifted index", Fault::kShiftedIndex},
                                                   {"lost counts", Fault::kLostCounts},
                                                   {"no host memory", Fault::kNoHostMemory},
                                                   {"no waits", Fault::kNoWaits},
                                                   {"no join", Fault::kNoJoin},
                                                   {"one memory", Fault::kOneMemory}};
  TORCH_CHECK_VALUE(faults.contains(name), "no fault is named ", name);
  emulation::set_fault(faults.at(name));
}

void set_stream(int64_t stream) { stream_of_caller = stream_now = stream; }

std::vector<int64_t> take_streams() {
  std::vector<int64_t> numbers;
  for (void* stream : emulation::take_streams()) numbers.push_back(reinterpret_cast<int64_t>(stream));
  return numbers;
}

void set_seed(int64_t seed) { emulation::set_seed(seed); }

at::Tensor reverse(const at::Tensor& from, int64_t beyond) {
  at::Tensor to = at::empty_like(from);
  seq::ops::check_launch(reverse_through_shared_memory(from.const_data_ptr<float>(), to.mutable_data_ptr<float>(),
                                                       static_cast<int>(from.numel()), static_cast<int>(beyond)));
  return to;
}

seq::ops::Layer layer_without_biases(std::string cell, const at::Tensor& x, const at::Tensor& w_ih,
                                     const at::Tensor& w_hh) {
  std::vector<seq::ops::OptionalTensor> weights(seq::ops::Layer::kWeights);
  weights[0] = w_ih, weights[1] = w_hh;
  return seq::ops::Layer({std::move(cell), x, weights, {}, {}, {}, {}, {}, {}, {}, {false}});
}

// The engine, why, and why others cannot.
std::vector<std::string> explain(std::string cell, const at::Tensor& x, const at::Tensor& w_ih, const at::Tensor& w_hh,
                                 const std::string& engine) {
  const seq::ops::Layer layer = layer_without_biases(std::move(cell), x, w_ih, w_hh);
  const seq::ops::Explanation found = seq::ops::devices().at("cuda").explain(layer, engine);
  std::vector<std::string> texts{found.engine, found.why};
  for (const auto& part : {found.details, found.refusals})
    for (const auto& [name, text] : part) texts.push_back(name + ": " + text);
  return texts;
}

std::string remember_engine(std::string cell, const at::Tensor& x, const at::Tensor& w_ih, const at::Tensor& w_hh,
                            const std::string& engine) {
  return seq::ops::remember(layer_without_biases(std::move(cell), x, w_ih, w_hh), engine);
}

// Blocks and tiles of a cluster, clusters of a direction, and fragments of a warp that are in shared memory.
std::vector<int64_t> cluster_shape(const std::string& cell, int64_t batch, int64_t hidden, int64_t directions,
                                   int64_t math, bool backward) {
  using namespace seq::cuda;
  const ClusterLayer layer{batch, hidden, static_cast<int>(directions), seq::ops::cell_counts(cell).index,
                           static_cast<Math>(math)};
  const ClusterShape s = backward ? backward_shape(layer) : forward_shape(layer);
  return {s.blocks, s.tiles, s.clusters, s.overflow};
}

at::Tensor exchange(int64_t blocks, int64_t bytes, bool waits) {
  at::Tensor sums = at::zeros({blocks}, at::kInt);
  seq::ops::check_launch(
      exchange_in_cluster(sums.mutable_data_ptr<int>(), static_cast<int>(blocks), static_cast<int>(bytes), waits));
  return sums;
}

at::Tensor multiply(const std::string& type, const at::Tensor& a, const at::Tensor& b) {
  at::Tensor out = at::empty({16, 8});
  seq::ops::check_launch(multiply_fragments(type.c_str(), a.const_data_ptr<float>(), b.const_data_ptr<float>(),
                                            out.mutable_data_ptr<float>()));
  return out;
}

// An op whose work goes to several streams.
template <auto kRun, class... Args>
auto on_streams(const Args&... args) {
  const auto nothing_is_left = [] {
    TORCH_CHECK(!emulation::forget_work(), "a stream has work for which nobody has waited");
  };
  nothing_is_left();
  const seq::ops::StreamAllocator::Use allocator;
  auto result = kRun(args...);
  nothing_is_left();
  return result;
}

// Two steps of rows of so many steps, forward and backward, with no memory but their lengths.
void step_without_memory(const std::string& cell, int64_t length) {
  using namespace seq::cuda;
  const auto& counts = seq::ops::cell_counts(cell);
  const Kernels& kernels = stepwise_kernels(counts.index, Type::kFloat);
  const std::vector<int64_t> lengths(5, length);
  const Step first{3, 0, 5}, second{4, 5, 5};
  Forward f;
  Backward b;
  for (Walk* walk : {static_cast<Walk*>(&f), static_cast<Walk*>(&b)})
    walk->hidden = walk->head_hidden = walk->width = walk->y_stride = 70, walk->lengths = lengths.data();
  b.dy_stride = 70;
  ForwardStep forward;
  forward.now = first, forward.next = second;
  BackwardStep backward;
  backward.now = second, backward.before = first;
  for (int p = 0; p < counts.phases; ++p) {
    seq::ops::check_launch(kernels.forward[p](f, forward, nullptr));
    seq::ops::check_launch(kernels.backward[p](b, backward, nullptr));
  }
}

void deadlock() { seq::ops::check_launch(wait_for_ever()); }

}  // namespace

TORCH_LIBRARY(seqcuda_emulated, m) {
  m.def(seq::ops::kSequenceSchema);
  m.def(seq::ops::kSequenceBackwardSchema);
  m.def(seq::ops::kMaskSchema);
  m.def(seq::ops::kStackSchema);
  m.def(seq::ops::kStackBackwardSchema);
  m.def("set_fault(str name) -> ()", &set_fault);
  m.def("set_seed(int seed) -> ()", &set_seed);
  m.def("set_stream(int stream) -> ()", &set_stream);
  m.def("take_streams() -> int[]", &take_streams);
  m.def("set_capability(int capability) -> ()", [](int64_t n) { emulation::capability = static_cast<int>(n); });
  m.def("set_compiled_for(int[] capabilities) -> ()",
        [](const std::vector<int64_t>& all) { emulation::compiled_for.assign(all.begin(), all.end()); });
  m.def("reverse(Tensor from_, int beyond) -> Tensor", &reverse);
  m.def("explain(str cell, Tensor x, Tensor w_ih, Tensor w_hh, str engine) -> str[]", &explain);
  m.def("remember_engine(str cell, Tensor x, Tensor w_ih, Tensor w_hh, str engine) -> str", &remember_engine);
  m.def("cluster_shape(str cell, int batch, int hidden, int directions, int math, bool backward) -> int[]",
        &cluster_shape);
  m.def("set_gpcs(int[] multiprocessors) -> ()", [](const std::vector<int64_t>& all) {
    emulation::gpcs.assign(all.begin(), all.end());
    ++emulation::device;
  });
  m.def("gpcs() -> int[]", [] { return std::vector<int64_t>(emulation::gpcs.begin(), emulation::gpcs.end()); });
  m.def("run_out_of_memory_after(int products) -> ()", [](int64_t n) { products_until_out_of_memory = n; });
  m.def("set_shared_bytes(int bytes) -> ()", [](int64_t bytes) { emulation::shared_bytes = bytes; });
  m.def("forget_work() -> bool", &emulation::forget_work);
  m.def("chunk_bytes() -> int[]",
        [] { return std::vector<int64_t>{seq::ops::cuda_chunk_bytes, seq::ops::cuda_launch_bytes}; });
  m.def("set_chunk_bytes(int[] bytes) -> ()", [](const std::vector<int64_t>& bytes) {
    seq::ops::cuda_chunk_bytes = bytes[0], seq::ops::cuda_launch_bytes = bytes[1];
  });
  m.def("exchange(int blocks, int bytes, bool waits) -> Tensor", &exchange);
  m.def("multiply(str type, Tensor a, Tensor b) -> Tensor", &multiply);
  m.def("step_without_memory(str cell, int length) -> ()", &step_without_memory);
  m.def("deadlock() -> ()", &deadlock);
}

TORCH_LIBRARY_IMPL(seqcuda_emulated, CPU, m) {
  m.impl("sequence", &seq::ops::sequence<seq::ops::sequence_cuda>);
  m.impl("sequence_backward", &seq::ops::sequence_backward<seq::ops::sequence_backward_cuda>);
  m.impl("mask", &seq::ops::mask_cuda);
  using namespace seq::ops;
  m.impl("stack", &stack<&on_streams<&stack_cuda, Arguments, std::vector<std::string>, std::string>>);
  m.impl("stack_backward",
         &stack_backward<
             &on_streams<&stack_backward_cuda, Arguments, std::vector<Saved>, std::string, std::vector<bool>>>);
}

// For calls that mix devices: the dispatcher sends them where a GPU's would go.
TORCH_LIBRARY_IMPL(seqcuda_emulated, Meta, m) { m.impl("sequence", &seq::ops::sequence<seq::ops::sequence_cuda>); }
