#include "data/geometry.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace skipway {
namespace {

// The part of an image's position that lies between two of its rows or columns.
struct Between {
  int64_t first, second;
  float weight;  // of the second
};

// LibTorch's half-pixel rule (align_corners false) from `size` to `wanted`.
std::vector<Between> places(int64_t begin, int64_t size, int64_t wanted) {
  std::vector<Between> result(static_cast<size_t>(wanted));
  const float scale = static_cast<float>(size) / static_cast<float>(wanted);
  for (int64_t i = 0; i < wanted; ++i) {
    const float at = std::max(0.0F, (static_cast<float>(i) + 0.5F) * scale - 0.5F);
    const auto first = static_cast<int64_t>(at);
    result[static_cast<size_t>(i)] = {begin + first, begin + std::min(first + 1, size - 1),
                                      at - static_cast<float>(first)};
  }
  return result;
}

uint8_t rounded(float value) { return static_cast<uint8_t>(std::nearbyint(value)); }

bool inside(Pixels image, int64_t y, int64_t x) {
  return y >= 0 && y < image.h && x >= 0 && x < image.w;
}

void read_nearest(Pixels from, float y, float x, const Colour& fill, uint8_t* to) {
  const auto row = static_cast<int64_t>(std::nearbyint(y));
  const auto column = static_cast<int64_t>(std::nearbyint(x));
  if (inside(from, row, column))
    std::copy_n(from.data + 3 * (row * from.w + column), 3, to);
  else
    std::copy_n(fill.data(), 3, to);
}

void read_bilinear(Pixels from, float y, float x, const Colour& fill, uint8_t* to) {
  const float top = std::floor(y), left = std::floor(x);
  const float down = y - top, right = x - left;
  const auto row = static_cast<int64_t>(top), column = static_cast<int64_t>(left);
  const auto pixel = [&](int64_t py, int64_t px) {
    return inside(from, py, px) ? from.data + 3 * (py * from.w + px) : fill.data();
  };
  const uint8_t *a = pixel(row, column), *b = pixel(row, column + 1), *c = pixel(row + 1, column),
                *d = pixel(row + 1, column + 1);
  const float wa = (1 - down) * (1 - right), wb = (1 - down) * right, wc = down * (1 - right),
              wd = down * right;
  for (int i = 0; i < 3; ++i)
    to[i] = rounded(wa * static_cast<float>(a[i]) + wb * static_cast<float>(b[i]) +
                    wc * static_cast<float>(c[i]) + wd * static_cast<float>(d[i]));
}

template <typename Read>
void warp_with(Pixels image, const Affine& affine, const Colour& fill, Read&& read) {
  std::vector<uint8_t> before(image.data, image.data + image.bytes());
  const Pixels from{before.data(), image.h, image.w};
  const double middle_y = static_cast<double>(image.h - 1) / 2;
  const double middle_x = static_cast<double>(image.w - 1) / 2;
  uint8_t* to = image.data;
  for (int64_t row = 0; row < image.h; ++row) {
    const double y = static_cast<double>(row) - middle_y;
    for (int64_t column = 0; column < image.w; ++column, to += 3) {
      const double x = static_cast<double>(column) - middle_x;
      read(from, static_cast<float>(affine.yx * x + affine.yy * y + affine.y0 + middle_y),
           static_cast<float>(affine.xx * x + affine.xy * y + affine.x0 + middle_x), fill, to);
    }
  }
}

int64_t below(Rng& rng, int64_t n) {
  return static_cast<int64_t>(rng.below(static_cast<uint64_t>(n)));
}

}  // namespace

Affine rotation(double degrees) {
  const double angle = degrees * std::numbers::pi / 180;
  const double cosine = std::cos(angle), sine = std::sin(angle);
  return {.xx = cosine, .xy = -sine, .x0 = 0, .yx = sine, .yy = cosine, .y0 = 0};
}

void warp(Pixels image, const Affine& affine, Sampling sampling, const Colour& fill) {
  if (sampling == Sampling::kNearest)
    warp_with(image, affine, fill, read_nearest);
  else
    warp_with(image, affine, fill, read_bilinear);
}

std::optional<Rectangle> draw_rectangle(const RectangleRange& range, int64_t h, int64_t w,
                                        Rng& rng) {
  const auto placed = [&](int64_t height, int64_t width) {
    const int64_t top = below(rng, h - height + 1), left = below(rng, w - width + 1);
    return Rectangle{top, left, height, width};
  };
  const double height = static_cast<double>(h), width = static_cast<double>(w);
  for (int tries = 0; tries < 10; ++tries) {
    const double area =
        height * width * std::lerp(range.least_area, range.most_area, rng.uniform());
    const double ratio =
        std::exp(std::lerp(std::log(range.least_ratio), std::log(range.most_ratio), rng.uniform()));
    const auto tall = std::llround(std::sqrt(area / ratio));
    const auto wide = std::llround(std::sqrt(area * ratio));
    if (tall > 0 && tall <= h && wide > 0 && wide <= w) return placed(tall, wide);
  }
  return std::nullopt;
}

Rectangle middle_rectangle(const RectangleRange& range, int64_t h, int64_t w) {
  const double height = static_cast<double>(h), width = static_cast<double>(w);
  const double own = width / height, ratio = std::clamp(own, range.least_ratio, range.most_ratio);
  const int64_t tall = std::clamp<int64_t>(own < ratio ? std::llround(width / ratio) : h, 1, h);
  const int64_t wide = std::clamp<int64_t>(own > ratio ? std::llround(height * ratio) : w, 1, w);
  return {(h - tall) / 2, (w - wide) / 2, tall, wide};
}

void resized_crop(Pixels image, const Rectangle& from) {
  const std::vector<uint8_t> before(image.data, image.data + image.bytes());
  const auto columns = places(from.left, from.w, image.w);
  uint8_t* to = image.data;
  for (const Between& y : places(from.top, from.h, image.h)) {
    const uint8_t* const top = before.data() + 3 * y.first * image.w;
    const uint8_t* const bottom = before.data() + 3 * y.second * image.w;
    for (const Between& x : columns) {
      for (int64_t c = 0; c < 3; ++c) {
        const auto row = [&](const uint8_t* line) {
          return (1 - x.weight) * static_cast<float>(line[3 * x.first + c]) +
                 x.weight * static_cast<float>(line[3 * x.second + c]);
        };
        *to++ = rounded((1 - y.weight) * row(top) + y.weight * row(bottom));
      }
    }
  }
}

void erase(Pixels image, const Rectangle& rectangle) {
  for (int64_t y = rectangle.top; y < rectangle.top + rectangle.h; ++y)
    std::fill_n(image.data + 3 * (y * image.w + rectangle.left), 3 * rectangle.w, kGrey);
}

double rotated_fill_share(double degrees, int64_t side) {
  std::vector<uint8_t> white(static_cast<size_t>(3 * side * side), 255);
  warp({white.data(), side, side}, rotation(degrees), Sampling::kNearest);
  return static_cast<double>(std::ranges::count(white, kGrey)) / static_cast<double>(white.size());
}

}  // namespace skipway
