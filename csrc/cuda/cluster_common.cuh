// What both kernels of engine "cluster" share: which rows a tile has and when, who a thread is, how values lie.
#pragma once

#include "cuda/cluster_layout.h"
#include "cuda/cluster_products.cuh"
#include "cuda/launch.cuh"
#include "engine/cell_traits.h"

namespace seq::cuda {

namespace {

__device__ __forceinline__ int smaller(int a, int b) { return a < b ? a : b; }
__device__ __forceinline__ int larger(int a, int b) { return a > b ? a : b; }

__device__ __forceinline__ int time_of(const ClusterSteps& s, int k) { return s.reverse ? s.count - 1 - k : k; }
// The first data row of step t of the launch, or of one beside it.
__device__ __forceinline__ int64_t first_row(const ClusterSteps& s, int t) {
  return s.packed ? s.base + s.start[1 + t] : (s.t0 + t) * s.batch;
}

__device__ TileRow tile_row(const ClusterSteps& s, const int64_t* lengths, int64_t place) {
  if (place >= s.batch) return {-1, 0};
  int end = 0;
  if (s.packed) {
    while (end <= s.count && s.start[2 + end] - s.start[1 + end] > place) ++end;
    return {static_cast<int>(place), end};
  }
  const int64_t row = s.order ? s.order[place] : place, left = lengths ? lengths[row] - s.t0 : s.count + 1;
  end = left < 0 ? 0 : left > s.count ? s.count + 1 : static_cast<int>(left);
  return {static_cast<int>(row), end};
}

// The rows of a cluster's tiles and the steps of each. Tiles are dealt in turn, so that every cluster has long rows and
// short ones. For all threads of the block.
__device__ void set_up_tiles(const ClusterSteps& s, const int64_t* lengths, int cluster, const ClusterShape& shape,
                             TileRow* rows, TileRange* ranges) {
  for (int i = threadIdx.x; i < shape.tiles * kTileRows; i += blockDim.x) {
    const int64_t tile = static_cast<int64_t>(i / kTileRows) * shape.clusters + cluster;
    rows[i] = tile_row(s, lengths, tile * kTileRows + i % kTileRows);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < shape.tiles; i += blockDim.x) {
    int longest = 0;
    for (int n = 0; n < kTileRows; ++n) longest = larger(longest, rows[i * kTileRows + n].end);
    longest = smaller(longest, s.count);
    ranges[i] = s.reverse ? TileRange{s.count - longest, s.count} : TileRange{0, longest};
  }
  __syncthreads();
}

// The tiles of a cluster, step by step: the exchange of one goes on while another is multiplied.
class Turns {
 public:
  struct Turn {
    int k, tile;
    bool exists;
  };

  // direction: 1 or -1, the way through the walk steps.
  __device__ Turns(const TileRange* ranges, int tiles, int direction)
      : ranges_(ranges), tiles_(tiles), direction_(direction) {
    for (int i = 0; i < tiles; ++i) {
      if (ranges[i].begin >= ranges[i].end) continue;
      begin_ = begin_ < end_ ? smaller(begin_, ranges[i].begin) : ranges[i].begin;
      end_ = larger(end_, ranges[i].end);
    }
  }

  __device__ Turn first() const { return after({direction_ > 0 ? begin_ : end_ - 1, -1, true}); }
  __device__ Turn after(Turn turn) const {
    while (true) {
      if (++turn.tile == tiles_) turn.tile = 0, turn.k += direction_;
      if (turn.k < begin_ || turn.k >= end_) return {turn.k, 0, false};
      if (turn.k >= ranges_[turn.tile].begin && turn.k < ranges_[turn.tile].end) return turn;
    }
  }

 private:
  const TileRange* ranges_;
  int tiles_, direction_, begin_ = 0, end_ = 0;
};

// A place in the shared memory of the block.
template <class T>
__device__ __forceinline__ T* shared_at(int bytes) {
  return reinterpret_cast<T*>(shared_memory() + bytes);
}

// A thread of a block of a cluster. Four values of a tile are a lane's: value i is unit g + 8 (i / 2) of a group and
// row 2 q + i % 2 of the tile.
struct Thread {
  int warp, lane, rank, direction, cluster;

  __device__ explicit Thread(const ClusterShape& shape)
      : warp(threadIdx.x / kWarpLanes),
        lane(threadIdx.x % kWarpLanes),
        rank(blockIdx.x % shape.blocks),
        direction(blockIdx.x / shape.blocks % shape.directions),
        cluster(blockIdx.x / shape.blocks / shape.directions) {}

  __device__ __forceinline__ int unit(int i) const { return lane / 4 + 8 * (i >> 1); }
  __device__ __forceinline__ int row(int i) const { return lane % 4 * 2 + (i & 1); }
};

__device__ __forceinline__ void load_fragment(uint32_t (&a)[4], const uint4* from) {
  const uint4 f = *from;
  a[0] = f.x, a[1] = f.y, a[2] = f.z, a[3] = f.w;
}

// Which cells the engines have.
template <class Cell>
constexpr bool kOnChip = CellTraits<Cell>::phases() == 1 && CellTraits<Cell>::plain();

template <class Cell, Math kMath>
constexpr ClusterCell kClusterCell{Cell::kGates, Cell::kStates, Cell::kSaved, Products<kMath>::kDepths};

// What both kernels are given.
template <class Walk, class Layout>
struct ClusterArguments {
  Walk walks[2];
  ClusterShape shape;
  Layout at;
  GroupMemory memory;
};

template <class Layout, class Walk>
ClusterArguments<Walk, Layout> arguments_of(const Walk* walks, const ClusterShape& s, const ClusterCell& cell,
                                            const GroupMemory& memory = {}) {
  return {{walks[0], walks[s.directions - 1]}, s, Layout(s, cell), memory};
}
inline dim3 grid_of(const ClusterShape& s) { return dim3(s.clusters * s.directions * s.blocks); }
inline dim3 block_of(const ClusterShape& s) { return dim3(s.warps * kWarpLanes); }

}  // namespace

}  // namespace seq::cuda
