#include "ops/page_pool.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>

namespace seq::ops {

namespace {

constexpr size_t kPage = size_t{2} << 20;  // a large one
constexpr size_t kLeast = size_t{4} << 20, kMostKept = size_t{1} << 30;

struct Block {
  char* at;
  size_t bytes;
};

class PagePool : public c10::Allocator {
 public:
  static PagePool& get() {
    static PagePool* pool = new PagePool;  // tensors may outlive every static
    return *pool;
  }

  at::DataPtr allocate(size_t bytes) override {
    const size_t pages = (bytes + kPage - 1) / kPage * kPage;
    auto block = std::make_unique<Block>(kept(pages));
    if (!block->at) *block = mapped(pages);
    c10::reportMemoryUsageToProfiler(block->at, static_cast<int64_t>(block->bytes), 0, 0, c10::Device(c10::kCPU));
    char* at = block->at;
    return {at, block.release(), &give_back, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  // A block that is about as large; none: null.
  Block kept(size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(blocks_.begin(), blocks_.end(), [&](const Block& block) {
      return block.bytes >= bytes && block.bytes <= bytes + bytes / 4;
    });
    if (found == blocks_.end()) return {nullptr, 0};
    const Block block = *found;
    blocks_.erase(found);
    bytes_ -= block.bytes;
    return block;
  }

  static Block mapped(size_t bytes) {
    void* at = mmap(nullptr, bytes + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TORCH_CHECK_WITH(OutOfMemoryError, at != MAP_FAILED, "seqcuda: there is no memory for a result of ", bytes,
                     " bytes");
    char* first = static_cast<char*>(at);
    const size_t before = (kPage - reinterpret_cast<uintptr_t>(first) % kPage) % kPage;
    if (before > 0) munmap(first, before);
    munmap(first + before + bytes, kPage - before);
    madvise(first + before, bytes, MADV_HUGEPAGE);
    return {first + before, bytes};
  }

  static void give_back(void* context) {
    const std::unique_ptr<Block> block(static_cast<Block*>(context));
    c10::reportMemoryUsageToProfiler(block->at, -static_cast<int64_t>(block->bytes), 0, 0, c10::Device(c10::kCPU));
    PagePool& pool = get();
    if (block->bytes > kMostKept || madvise(block->at, block->bytes, MADV_FREE) != 0) {
      munmap(block->at, block->bytes);
      return;
    }
    const std::lock_guard lock(pool.mutex_);
    pool.blocks_.push_back(*block);
    for (pool.bytes_ += block->bytes; pool.bytes_ > kMostKept; pool.blocks_.pop_front()) {
      pool.bytes_ -= pool.blocks_.front().bytes;
      munmap(pool.blocks_.front().at, pool.blocks_.front().bytes);
    }
  }

  std::mutex mutex_;
  std::deque<Block> blocks_;  // the oldest first
  size_t bytes_ = 0;
};

}  // namespace

at::Tensor empty_from_pool(at::IntArrayRef sizes, at::ScalarType type) {
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * c10::elementSize(type);
  if (bytes < kLeast) return at::detail::empty_cpu(sizes, type);
  return at::detail::empty_generic(sizes, &PagePool::get(), c10::DispatchKeySet(c10::DispatchKey::CPU), type, {});
}

}  // namespace seq::ops
