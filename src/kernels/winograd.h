// How the passes of the Winograd convolutions cut their work and lay out their memory; no
// arithmetic. For src/kernels alone.
#pragma once
#include <algorithm>

#include "kernels/conv3x3.h"
#include "kernels/pieces.h"

namespace skipway::kernels {

// 64 tiles of 64 channels at 36 points are 590 KB in fp32: two such buffers and the transformed
// weights stay in 2 MB. With more channels they do not, and more tiles read the weights less often.
// A tile of stride 2 is 2.25 times as large.
constexpr int64_t tiles_of_block(const ConvShape& s) {
  return std::max(s.c, s.k) <= 64 || s.stride == 2 ? 64 : 128;
}
// Outputs of a tile a side, and values of a 3x3 filter at different points: six a side in every
// scheme.
constexpr int64_t kTile = 4, kWeightSide = 6, kWeightPoints = kWeightSide * kWeightSide;
// Pixels of a patch a side, and as many points.
constexpr int patch_side(int64_t stride) { return stride == 1 ? 6 : 9; }
constexpr int points_of_tile(int64_t stride) { return patch_side(stride) * patch_side(stride); }
// Planes of a power of two would all begin in one set of the cache.
constexpr int64_t kPlanePadding = 16;
constexpr int64_t kWidest = 16;  // lanes

// How a pass cuts its work: into blocks of tiles; those of a backward pass hold whole images, so
// that the overlapping patches of a gradient are one thread's own. Each thread has blocks of its
// own; but where a layer's weights are more than its maps, there is one block and threads share its
// channels, so that each reads its share of the weights only.
struct Blocks {
  int64_t rows, columns;      // tiles of an image
  int64_t all, tiles, count;  // tiles in all and of a block; blocks
  bool shared;
  int teams;  // that work at blocks of their own: threads, or one of them all

  Blocks(const ConvShape& s, Pass pass, int threads) {
    rows = ceil_div(s.out_h(), kTile), columns = ceil_div(s.out_w(), kTile);
    all = s.n * rows * columns;
    shared = std::min(s.c, s.k) >= threads * kPanel &&
             kWeightPoints * s.c * s.k >= points_of_tile(s.stride) * all * std::max(s.c, s.k);
    const int64_t together = pass == Pass::kBackward ? rows * columns : 2;
    const int64_t wanted = shared ? all : std::min(tiles_of_block(s), ceil_div(all, threads));
    tiles = ceil_div(wanted, together) * together;
    count = ceil_div(all, tiles);
    teams = shared ? 1 : static_cast<int>(std::min<int64_t>(threads, count));
  }
};

// What one thread does of a block in one phase of a pass.
struct Part {
  int64_t first_tile, tiles;  // of the block
  int thread = 0, team = 0;
  int rank = 0, size = 1;  // its place in the team, whose threads share the block
  bool first = true;       // of the team's blocks

  Part(const Blocks& blocks, int64_t block)
      : first_tile(block * blocks.tiles), tiles(std::min(blocks.tiles, blocks.all - first_tile)) {}

  Share share(int64_t count) const { return {count, rank, size}; }
  Columns columns(int64_t count) const { return {count, rank, size}; }
};

// Runs the phases of every block one after the other.
template <class... Phases>
void for_each_block(const Blocks& blocks, const Threads& threads, const Phases&... phases) {
  if (blocks.shared) {
    const auto run = [&](const auto& phase) {
      threads.run([&](int thread) {
        Part part(blocks, 0);
        part.thread = part.rank = thread, part.size = threads.count;
        phase(part);
      });
    };
    (run(phases), ...);
    return;
  }
  threads.run([&](int thread) {
    if (thread >= blocks.teams) return;
    const Share range(blocks.count, thread, blocks.teams);
    for (int64_t block = range.begin; block < range.end; ++block) {
      Part part(blocks, block);
      part.thread = part.team = thread;
      part.first = block == range.begin;
      (phases(part), ...);
    }
  });
}

// Scratch memory in words of four bytes. A plane holds one point of all tiles, or of the weights.
struct Workspace {
  int64_t weights_plane, src_plane, dst_plane, product_plane;
  int64_t weights, sums, strips, strip_words;           // of all; two sums and a strip a thread
  int64_t src, dst, dst_pairs, products, grad_weights;  // of each team
  int64_t team_words, total_words;

  Workspace(const ConvShape& s, Type operands, Pass pass, int threads) {
    const Blocks blocks(s, pass, threads);
    const int64_t tiles = ceil_div(blocks.tiles, 2) * 2;
    const int64_t points = points_of_tile(s.stride), patch = patch_side(s.stride);
    const int64_t step = kTile * s.stride;  // pixels from a patch to the next
    const int64_t per_word = operands == Type::kBf16 ? 2 : 1;
    const bool back = pass == Pass::kBackward;
    int64_t used = 0;
    const auto take = [&used](int64_t words) {
      const int64_t begin = used;
      used += ceil_div(words, kWidest) * kWidest;
      return begin;
    };
    weights_plane = s.c * s.k / per_word;
    src_plane = tiles * s.c / per_word + kPlanePadding;
    dst_plane = tiles * s.k / per_word + kPlanePadding;
    product_plane = tiles * (back ? s.c : s.k) + kPlanePadding;
    strip_words = patch * (step * blocks.columns + patch - step) * kWidest;
    weights = take(kWeightPoints * weights_plane);
    sums = take(threads * 2 * (back ? s.c : s.k) * 2);  // doubles
    strips = take(back ? threads * strip_words : 0);
    const int64_t of_all = used;
    used = 0;
    src = take(points * src_plane);
    products = take(points * product_plane);
    dst = dst_pairs = grad_weights = 0;
    if (back) {
      dst = take(points * dst_plane);
      dst_pairs = per_word == 2 ? take(points * dst_plane) : dst;
      grad_weights = take(kWeightPoints * s.c * s.k);
    }
    team_words = used;
    for (int64_t* offset : {&src, &products, &dst, &dst_pairs, &grad_weights}) *offset += of_all;
    total_words = of_all + blocks.teams * team_words;
  }
};

// conv3x3_stride2.cc's parts of forward(), prepare() and backward(). `dot`: vdpbf16ps may be used.
void forward_stride2(const ConvShape& shape, Numbers numbers, bool dot,
                     const ForwardArguments& arguments, float* scratch, const Threads& threads);
void prepare_stride2(const ConvShape& shape, Numbers numbers, const float* weights, float* to,
                     const Threads& threads);
void backward_stride2(const ConvShape& shape, Numbers numbers, bool dot,
                      const BackwardArguments& arguments, float* scratch, const Threads& threads);

}  // namespace skipway::kernels
