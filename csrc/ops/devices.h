// The devices that have compiled engines; each adds itself where its engines are.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ops/layer.h"

namespace seq::ops {

using NamedTexts = std::vector<std::pair<std::string, std::string>>;

// Who computes a layer, why, and what else there is to say; by name, why other engines cannot.
struct Explanation {
  std::string engine, why;
  NamedTexts details, refusals;
};

struct Device {
  std::vector<std::string> engines;
  // What `asked`, "auto" or a name, becomes for a layer; throws for an unknown name, and for an engine that cannot run
  // it.
  Explanation (*explain)(const Layer& layer, const std::string& asked);
};

// By the name of the device's type.
std::map<std::string, Device>& devices();

struct AddDevice {
  AddDevice(const char* type, Device device) { devices().emplace(type, std::move(device)); }
};

}  // namespace seq::ops
