#include "ops/tuned.h"

#include <atomic>
#include <map>
#include <mutex>
#include <tuple>

namespace seq::ops {

namespace {

using Key = std::tuple<std::string, int, at::ScalarType, int64_t, int64_t, int64_t, int64_t, bool>;

Key key_of(const Layer& layer) {
  return {layer.device.str(), layer.cell.index, layer.dtype, layer.hidden,
          layer.heads,        layer.directions, layer.batch, layer.steps > 1};
}

std::mutex guard;
std::map<Key, std::string> engines;
std::atomic<bool> any = false;  // most processes never tune: their calls take no lock

}  // namespace

std::string remember(const Layer& layer, const std::string& engine) {
  const std::lock_guard lock(guard);
  const Key key = key_of(layer);
  const auto found = engines.find(key);
  const std::string before = found == engines.end() ? "" : found->second;
  if (engine.empty())
    engines.erase(key);
  else
    engines[key] = engine;
  any = !engines.empty();
  return before;
}

std::optional<std::string> tuned(const Layer& layer) {
  if (!any) return {};
  const std::lock_guard lock(guard);
  const auto found = engines.find(key_of(layer));
  return found == engines.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace seq::ops
