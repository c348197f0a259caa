#include "ops/devices.h"

namespace seq::ops {

std::map<std::string, Device>& devices() {
  static std::map<std::string, Device> all;
  return all;
}

}  // namespace seq::ops
