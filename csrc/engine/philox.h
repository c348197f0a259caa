// Random numbers that are a function of where they are used: Philox4x32-10 of Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3", the generator of cuRAND and of torch on CUDA.
//
//   key      the seed, its low word first
//   counter  unit / 4, row, step, stream, of 32 bits each
//   number   word unit % 4 of the four words that come out
//
// The same bits on every backend; seqcuda/masks.py has the same in torch.
#pragma once

#include <cstdint>

#include "cells/calculus.h"

namespace seq {

// [steps, rows, units] numbers: `hit` with probability `threshold` / 2^32, else `miss`.
template <class T>
struct Mask {
  int64_t stream = 0, steps = 0, rows = 0, units = 0;
  uint64_t threshold = 0;
  T hit{}, miss{};
  T* out = nullptr;

  SEQ_HD int64_t groups() const { return (units + 3) / 4; }

  // Four units of one row of a step; i from 0 to steps * rows * groups().
  SEQ_HD void fill(uint64_t seed, int64_t i) const {
    const int64_t group = i % groups(), at = i / groups(), row = at % rows, step = at / rows;
    uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    uint32_t word[4] = {static_cast<uint32_t>(group), static_cast<uint32_t>(row), static_cast<uint32_t>(step),
                        static_cast<uint32_t>(stream)};
    for (int round = 0; round < 10; ++round) {
      const uint64_t a = uint64_t{0xD2511F53} * word[0], b = uint64_t{0xCD9E8D57} * word[2];
      word[0] = static_cast<uint32_t>(b >> 32) ^ word[1] ^ key[0], word[1] = static_cast<uint32_t>(b);
      word[2] = static_cast<uint32_t>(a >> 32) ^ word[3] ^ key[1], word[3] = static_cast<uint32_t>(a);
      key[0] += 0x9E3779B9, key[1] += 0xBB67AE85;
    }
    for (int j = 0; j < 4 && group * 4 + j < units; ++j)
      out[at * units + group * 4 + j] = word[j] < threshold ? hit : miss;
  }
};

}  // namespace seq
