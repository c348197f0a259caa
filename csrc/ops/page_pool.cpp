#include "ops/page_pool.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>

namespace seq::ops {

namespace {

constexpr size_t kLeast = size_t{128} << 10;  // what is smaller malloc keeps itself
constexpr size_t kLargePage = size_t{2} << 20, kSmallUnit = size_t{64} << 10;
constexpr size_t kColours = 16, kColour = 256;  // bytes

class PagePool;

struct Block {
  PagePool* pool;
  char* at;
  size_t bytes, first;  // first: of the data
};

class PagePool : public c10::Allocator {
 public:
  explicit PagePool(bool large)
      : large_(large), page_(large ? kLargePage : kSmallUnit), most_kept_(large ? size_t{1} << 30 : size_t{64} << 20) {}

  static PagePool& of(Pages pages) {
    static PagePool* pools = made();
    return pools[pages == Pages::kLarge];
  }

  at::DataPtr allocate(size_t bytes) override {
    // What begins at the same place of its page as all others would share sets of the caches with them.
    const size_t rounded = (bytes + (large_ ? 0 : kColours * kColour) + page_ - 1) / page_ * page_;
    auto block = std::make_unique<Block>(kept(rounded));
    if (!block->at) *block = mapped(rounded);
    char* at = block->at + block->first;
    c10::reportMemoryUsageToProfiler(block->at, static_cast<int64_t>(block->bytes), 0, 0, c10::Device(c10::kCPU));
    return {at, block.release(), &give_back, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  // Tensors may outlive every static. A child of fork has the blocks, and no thread that holds the lock.
  static PagePool* made() {
    static PagePool* pools = new PagePool[2]{PagePool(false), PagePool(true)};
    pthread_atfork([] { pools[0].mutex_.lock(), pools[1].mutex_.lock(); },
                   [] { pools[0].mutex_.unlock(), pools[1].mutex_.unlock(); },
                   [] { pools[0].mutex_.unlock(), pools[1].mutex_.unlock(); });
    return pools;
  }

  // A block that is about as large, the last that came back; none: null.
  Block kept(size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(blocks_.rbegin(), blocks_.rend(), [&](const Block& block) {
      return block.bytes >= bytes && block.bytes <= bytes + bytes / 4;
    });
    if (found == blocks_.rend()) return {};
    const Block block = *found;
    blocks_.erase(std::next(found).base());
    bytes_ -= block.bytes;
    return block;
  }

  Block mapped(size_t bytes) {
    const size_t more = large_ ? kLargePage : 0;
    void* at = mmap(nullptr, bytes + more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TORCH_CHECK_WITH(OutOfMemoryError, at != MAP_FAILED, "seqcuda: there is no memory for a result of ", bytes,
                     " bytes");
    char* first = static_cast<char*>(at);
    if (!large_) {
      const std::lock_guard lock(mutex_);
      return {this, first, bytes, colour_++ % kColours * kColour};
    }
    const size_t before = (kLargePage - reinterpret_cast<uintptr_t>(first) % kLargePage) % kLargePage;
    if (before > 0) munmap(first, before);
    munmap(first + before + bytes, kLargePage - before);
    madvise(first + before, bytes, MADV_HUGEPAGE);
    return {this, first + before, bytes, 0};
  }

  static void give_back(void* context) {
    const std::unique_ptr<Block> block(static_cast<Block*>(context));
    c10::reportMemoryUsageToProfiler(block->at, -static_cast<int64_t>(block->bytes), 0, 0, c10::Device(c10::kCPU));
    block->pool->keep(*block);
  }

  void keep(const Block& block) {
    if (block.bytes > most_kept_ || (large_ && madvise(block.at, block.bytes, MADV_FREE) != 0)) {
      munmap(block.at, block.bytes);
      return;
    }
    const std::lock_guard lock(mutex_);
    blocks_.push_back(block);
    for (bytes_ += block.bytes; bytes_ > most_kept_; blocks_.pop_front()) {
      bytes_ -= blocks_.front().bytes;
      munmap(blocks_.front().at, blocks_.front().bytes);
    }
  }

  const bool large_;
  const size_t page_, most_kept_;
  std::mutex mutex_;
  std::deque<Block> blocks_;  // the oldest first
  size_t bytes_ = 0, colour_ = 0;
};

}  // namespace

at::Tensor empty_in(Pages pages, at::IntArrayRef sizes, at::ScalarType type) {
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * c10::elementSize(type);
  if (bytes < kLeast) return at::detail::empty_cpu(sizes, type);
  PagePool& pool = PagePool::of(bytes < kLargePage ? Pages::kSmall : pages);
  return at::detail::empty_generic(sizes, &pool, c10::DispatchKeySet(c10::DispatchKey::CPU), type, {});
}

at::Tensor converted(const at::Tensor& t, at::ScalarType type, Pages pages) {
  if (t.scalar_type() == type || !t.is_cpu()) return t.to(type);
  return empty_in(pages, t.sizes(), type).copy_(t);
}

}  // namespace seq::ops
