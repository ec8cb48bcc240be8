// How the passes of the Winograd convolutions cut their work and lay out their memory; no
// arithmetic. For src/kernels alone.
#pragma once
#include <unistd.h>

#include <algorithm>

#include "kernels/conv.h"
#include "kernels/instruction_set.h"
#include "kernels/pieces.h"

namespace skipway::kernels {

// The sizes of a scheme, each of one side.
struct Tiling {
  int64_t tile;         // outputs
  int64_t patch;        // pixels read for them, and as many points
  int64_t weight_side;  // values of a 3x3 filter at different points
  int64_t step;         // pixels from a patch to the next

  constexpr int64_t points() const { return patch * patch; }
  constexpr int64_t weight_points() const { return weight_side * weight_side; }
};
constexpr Tiling tiling_of_stride1(int64_t tile) { return {tile, tile + 2, tile + 2, tile}; }
constexpr Tiling kStride2Tiling = {4, 9, 6, 8};

// Where a map is no larger than 2x2, a tile of four would compute what nobody reads; and few tiles
// take long to read the weights, of which tiles of two have fewer.
constexpr int64_t tile_of(const ConvShape& s) {
  constexpr int64_t kFewTiles = 4;
  const bool few = s.n * ceil_div(s.h, 4) * ceil_div(s.w, 4) <= kFewTiles;
  return s.stride == 1 && (few || std::max(s.h, s.w) <= 2) ? 2 : 4;
}
constexpr Tiling tiling_of(const ConvShape& s) {
  return s.stride == 2 ? kStride2Tiling : tiling_of_stride1(tile_of(s));
}

// Of a core; 2 MB where it is not known.
inline int64_t second_level_cache_bytes() {
  static const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? bytes : 2 << 20;
}
// Whether products are so fast, on tile registers, that nothing but memory counts.
inline bool on_tile_registers(Type operands) { return operands == Type::kBf16 && tiles_in_use(); }
// Planes of a power of two would all begin in one set of the cache.
constexpr int64_t kPlanePadding = 16;
constexpr int64_t kWidest = 16;  // lanes
// Of transformed weights, in words.
constexpr int64_t weights_plane_of(const ConvShape& s, Type operands) {
  return s.c * s.k / values_of_word(operands) + kPlanePadding;
}

// What goes over all tiles once.
enum class Sweep { kForward, kSourceGradient, kWeightsGradient, kBothGradients };
constexpr bool to_source(Sweep sweep) {
  return sweep == Sweep::kSourceGradient || sweep == Sweep::kBothGradients;
}
constexpr bool to_weights(Sweep sweep) {
  return sweep == Sweep::kWeightsGradient || sweep == Sweep::kBothGradients;
}

// Where threads share a block, so many k of the weights' gradient at a time go back to weights
// while they are in the cache: eight times the six rows of a product, or four tile registers.
inline int64_t shared_rows(Type operands) { return on_tile_registers(operands) ? 64 : 48; }

// Whether one sweep makes both gradients, and transforms the result's gradient once for both: where
// a thread's sums for the weights are at most 2.5 MB. With more, what all of it needs leaves the
// caches, which costs more than a second transform; on tile registers 600 KB of them do.
inline bool gradients_go_together(const ConvShape& s, Type operands) {
  return tiling_of(s).weight_points() * s.c * s.k <= 640 << 10 && !on_tile_registers(operands);
}

// 64 tiles of 64 channels at 36 points are 590 KB in fp32: two such buffers and the transformed
// weights stay in 2 MB. With more channels they do not, and more tiles read the weights less often.
// A tile of stride 2 is 2.25 times as large. On tile registers it pays to stay in the cache all the
// same, but for sums of the weights' gradient, which are what is read then; and in smaller caches
// with 128 channels (512 KB), or with 256 but for that gradient (1 MB).
inline int64_t tiles_of_block(const ConvShape& s, Type operands, Sweep sweep) {
  const int64_t channels = std::max(s.c, s.k), cache = second_level_cache_bytes();
  const bool of_128 = channels > 64 && channels <= 128, of_256 = channels > 128 && channels <= 256;
  if (on_tile_registers(operands) && s.stride == 1 && of_128)
    return sweep == Sweep::kWeightsGradient ? 256 : 32;
  if (cache < 1 << 20 && of_128) return 32;
  if (cache >= 1 << 20 && cache < 2 << 20 && of_256 && !to_weights(sweep)) return 32;
  return channels <= 64 || s.stride == 2 ? 64 : 128;
}

// How a sweep cuts its work: into blocks of tiles; those of the source's gradient hold whole
// images, so that overlapping patches are one thread's own. Each thread has blocks of its own; but
// where a layer's weights, or all threads' sums for their gradient, are more than its maps, there
// is one block and threads share its channels, so that each has its share of the weights only.
struct Blocks {
  int64_t rows, columns;      // tiles of an image
  int64_t all, tiles, count;  // tiles in all and of a block; blocks
  bool shared;
  int teams;  // that work at blocks of their own: threads, or one of them all

  Blocks(const ConvShape& s, Type operands, Sweep sweep, int threads) {
    const Tiling tiling = tiling_of(s);
    rows = ceil_div(s.out_h(), tiling.tile), columns = ceil_div(s.out_w(), tiling.tile);
    all = s.n * rows * columns;
    const int64_t weights = tiling.weight_points() * s.c * s.k;
    const int64_t maps = tiling.points() * all * std::max(s.c, s.k);
    // What a thread needs to have of its own: rows of the weights' gradient, else columns. Above
    // so many threads some have nothing to do there, but sums of their own would take gigabytes.
    const int64_t least = sweep == Sweep::kWeightsGradient ? kWidest : kPanel;
    const int64_t busy = sweep == Sweep::kWeightsGradient ? std::min(threads, 16) : threads;
    shared = std::min(s.c, s.k) >= busy * least &&
             (sweep == Sweep::kWeightsGradient
                  ? threads * weights * bytes_of(Type::kFp32) > maps * bytes_of(operands)
                  : weights >= maps);
    const int64_t together = to_source(sweep) ? rows * columns : 2;
    const int64_t wanted =
        shared ? all : std::min(tiles_of_block(s, operands, sweep), ceil_div(all, threads));
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

// The blocks of a sweep, and its scratch memory in words of four bytes. A plane holds one point of
// all tiles, or of the weights.
struct Workspace {
  Blocks blocks;
  int64_t weights_plane, src_plane, dst_plane, product_plane, grad_weights_plane;
  int64_t weights, sums, strips, strip_words;           // of all; two sums and a strip a thread
  int64_t src, dst, dst_pairs, products, grad_weights;  // of each team, whose threads have
  int64_t thread_grad_weights;                          // so many words of the last each
  int64_t team_words, total_words;

  Workspace(const ConvShape& s, Type operands, Sweep sweep, int threads)
      : blocks(s, operands, sweep, threads) {
    const int64_t tiles = ceil_div(blocks.tiles, 2) * 2;
    const Tiling tiling = tiling_of(s);
    const int64_t points = tiling.points(), weight_points = tiling.weight_points();
    const int64_t per_word = values_of_word(operands);
    const bool forward = sweep == Sweep::kForward;
    const bool source = to_source(sweep), of_weights = to_weights(sweep);
    const int64_t result_channels = forward ? s.k : s.c;
    weights_plane = weights_plane_of(s, operands);
    src_plane = tiles * s.c / per_word + kPlanePadding;
    dst_plane = tiles * s.k / per_word + kPlanePadding;
    product_plane = tiles * result_channels + kPlanePadding;
    grad_weights_plane =
        (blocks.shared ? std::min(shared_rows(operands), s.k) : s.k) * s.c + kPlanePadding;
    thread_grad_weights = weight_points * grad_weights_plane;
    strip_words = (tiling.patch - tiling.step) * s.w * kWidest;
    ScratchOffsets of_all, of_team;
    weights = of_all.take(forward || source ? weight_points * weights_plane : 0);
    sums = of_all.take(forward || source ? threads * 2 * result_channels * 2 : 0);  // doubles
    strips = of_all.take(source ? threads * strip_words : 0);
    products = of_team.take(forward || source ? points * product_plane : 0);
    // Of both gradients, patches are read when the products have become the source's.
    src = sweep == Sweep::kBothGradients
              ? products
              : of_team.take(forward || of_weights ? points * src_plane : 0);
    dst = of_team.take(source || (of_weights && per_word == 1) ? points * dst_plane : 0);
    dst_pairs = per_word == 1 ? dst : of_team.take(of_weights ? points * dst_plane : 0);
    grad_weights =
        of_team.take(of_weights ? thread_grad_weights * (blocks.shared ? threads : 1) : 0);
    team_words = of_team.words;
    for (int64_t* offset : {&src, &dst, &dst_pairs, &products, &grad_weights})
      *offset += of_all.words;
    total_words = of_all.words + blocks.teams * team_words;
  }
};

// winograd_forward(), winograd_prepare() and winograd_backward() of one scheme.
struct SchemePasses {
  void (*forward)(const ConvShape& shape, Numbers numbers, const ForwardArguments& arguments,
                  float* scratch, const Threads& threads);
  void (*prepare)(const ConvShape& shape, Numbers numbers, const float* weights, float* to,
                  const Threads& threads);
  void (*backward)(const ConvShape& shape, Numbers numbers, const BackwardArguments& arguments,
                   float* scratch, const Threads& threads);
};

// With the instruction set in use. A file each, so that they are compiled side by side.
const SchemePasses& passes_of_tile2();
const SchemePasses& passes_of_tile4();
const SchemePasses& passes_of_stride2();

}  // namespace skipway::kernels
