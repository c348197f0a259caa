#include "ops/cuda/streams.h"

namespace seq::ops {

Streams::Streams(const at::Device& device, int64_t count) : streams_{current_stream(device)} {
  for (int64_t i = 1; i < count; ++i) {
    streams_.push_back(side_stream(device, i));
    wait(i, 0);
  }
}

Streams::~Streams() {
  if (joined_) return;
  try {
    join();
  } catch (const c10::Error&) {  // a device that is lost, of which the exception on its way tells
  }
}

void Streams::join() {
  joined_ = true;
  for (size_t i = 1; i < streams_.size(); ++i) wait(0, static_cast<int64_t>(i));
}

}  // namespace seq::ops
