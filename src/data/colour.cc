#include "data/colour.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace skipway {
namespace {

using Table = std::array<uint8_t, 256>;

uint8_t cut(float value) { return static_cast<uint8_t>(std::clamp(value, 0.0F, 255.0F)); }

uint8_t grey_of(const uint8_t* pixel) {
  return static_cast<uint8_t>(0.2989F * static_cast<float>(pixel[0]) +
                              0.587F * static_cast<float>(pixel[1]) +
                              0.114F * static_cast<float>(pixel[2]));
}

// A new value for each of the 256 that a channel can have.
template <typename Function>
Table make_table(Function&& function) {
  Table table{};
  for (size_t value = 0; value < table.size(); ++value)
    table[value] = function(static_cast<float>(value));
  return table;
}

void look_up(Pixels image, const Table& table) {
  for (int64_t i = 0; i < image.bytes(); ++i) image.data[i] = table[image.data[i]];
}

std::array<int64_t, 256> histogram(Pixels image, int channel) {
  std::array<int64_t, 256> counts{};
  for (int64_t i = channel; i < image.bytes(); i += 3) ++counts[image.data[i]];
  return counts;
}

void look_up(Pixels image, int channel, const Table& table) {
  for (int64_t i = channel; i < image.bytes(); i += 3) image.data[i] = table[image.data[i]];
}

// Hue in [0, 1), of a pixel whose values lie in [0, 1]. `chroma`: largest less smallest, above 0.
float hue_of(float red, float green, float blue, float largest, float chroma) {
  const float from_red = (largest - red) / chroma;
  const float from_green = (largest - green) / chroma;
  const float from_blue = (largest - blue) / chroma;
  const float sixths = largest == red     ? from_blue - from_green
                       : largest == green ? 2 + from_red - from_blue
                                          : 4 + from_green - from_red;
  const float hue = sixths / 6 + 1;
  return hue >= 1 ? hue - 1 : hue;
}

double drawn_factor(Rng& rng, double strength) {
  const double least = std::max(0.0, 1 - strength);
  return least + (1 + strength - least) * rng.uniform();
}

}  // namespace

void adjust_brightness(Pixels image, double factor) {
  const auto f = static_cast<float>(factor);
  look_up(image, make_table([f](float value) { return cut(f * value); }));
}

void adjust_contrast(Pixels image, double factor) {
  int64_t sum = 0;
  for (int64_t i = 0; i < image.bytes(); i += 3) sum += grey_of(image.data + i);
  const float mean = static_cast<float>(sum) / static_cast<float>(image.count());
  const auto f = static_cast<float>(factor), rest = static_cast<float>(1 - factor);
  look_up(image, make_table([=](float value) { return cut(f * value + rest * mean); }));
}

void adjust_saturation(Pixels image, double factor) {
  const auto f = static_cast<float>(factor), rest = static_cast<float>(1 - factor);
  for (int64_t i = 0; i < image.bytes(); i += 3) {
    const float grey = rest * static_cast<float>(grey_of(image.data + i));
    for (int64_t c = i; c < i + 3; ++c)
      image.data[c] = cut(f * static_cast<float>(image.data[c]) + grey);
  }
}

void adjust_hue(Pixels image, double turn) {
  for (int64_t i = 0; i < image.bytes(); i += 3) {
    uint8_t* const pixel = image.data + i;
    const float red = static_cast<float>(pixel[0]) / 255,
                green = static_cast<float>(pixel[1]) / 255,
                blue = static_cast<float>(pixel[2]) / 255;
    const float largest = std::max({red, green, blue}), smallest = std::min({red, green, blue});
    if (largest == smallest) continue;  // grey has no hue
    const float chroma = largest - smallest, saturation = chroma / largest;
    float hue = hue_of(red, green, blue, largest, chroma) + static_cast<float>(turn);
    hue -= std::floor(hue);
    const float sixths = hue * 6, whole = std::floor(sixths), part = sixths - whole;
    const auto level = [&](float less) { return cut(largest * (1 - saturation * less) * 255); };
    const uint8_t high = cut(largest * 255), low = level(1), falling = level(part),
                  rising = level(1 - part);
    const std::array<std::array<uint8_t, 3>, 6> sectors{{{high, rising, low},
                                                         {falling, high, low},
                                                         {low, high, rising},
                                                         {low, falling, high},
                                                         {rising, low, high},
                                                         {high, low, falling}}};
    std::ranges::copy(sectors[static_cast<size_t>(whole) % 6], pixel);
  }
}

void adjust_sharpness(Pixels image, double factor) {
  const auto f = static_cast<float>(factor), rest = static_cast<float>(1 - factor);
  const std::vector<uint8_t> before(image.data, image.data + image.bytes());
  const int64_t row = 3 * image.w;
  for (int64_t y = 1; y < image.h - 1; ++y) {
    for (int64_t at = y * row + 3; at < (y + 1) * row - 3; ++at) {
      int sum = 4 * before[static_cast<size_t>(at)];
      for (const int64_t line : {at - row, at, at + row})
        for (const int64_t near : {line - 3, line, line + 3})
          sum += before[static_cast<size_t>(near)];
      const int blurred = (sum + 6) / 13;  // to the nearest; weights of 1 and, in the middle, 5
      image.data[at] =
          cut(f * static_cast<float>(image.data[at]) + rest * static_cast<float>(blurred));
    }
  }
}

void posterize(Pixels image, int bits) {
  const int mask = 0xff << (8 - bits);
  for (int64_t i = 0; i < image.bytes(); ++i)
    image.data[i] = static_cast<uint8_t>(image.data[i] & mask);
}

void solarize(Pixels image, double threshold) {
  look_up(image,
          make_table([=](float value) { return cut(value >= threshold ? 255 - value : value); }));
}

void autocontrast(Pixels image) {
  for (int channel = 0; channel < 3; ++channel) {
    int smallest = 255, largest = 0;
    for (int64_t i = channel; i < image.bytes(); i += 3) {
      smallest = std::min<int>(smallest, image.data[i]);
      largest = std::max<int>(largest, image.data[i]);
    }
    if (smallest == largest) continue;
    const float from = static_cast<float>(smallest);
    const float scale = 255 / static_cast<float>(largest - smallest);
    look_up(image, channel, make_table([=](float value) { return cut((value - from) * scale); }));
  }
}

void equalize(Pixels image) {
  for (int channel = 0; channel < 3; ++channel) {
    const auto counts = histogram(image, channel);
    size_t brightest = 255;
    while (counts[brightest] == 0) --brightest;
    const int64_t step = (image.count() - counts[brightest]) / 255;
    if (step == 0) continue;
    Table table{};
    int64_t darker = 0;  // values below this one
    for (size_t value = 0; value < table.size(); ++value) {
      const int64_t level = value == 0 ? 0 : (darker + step / 2) / step;
      table[value] = static_cast<uint8_t>(std::min<int64_t>(level, 255));
      darker += counts[value];
    }
    look_up(image, channel, table);
  }
}

void jitter(Pixels image, const JitterOptions& options, Rng rng) {
  // All are drawn first, so that leaving one out changes no other.
  const double brightness = drawn_factor(rng, options.brightness);
  const double contrast = drawn_factor(rng, options.contrast);
  const double saturation = drawn_factor(rng, options.saturation);
  const double hue = options.hue * (2 * rng.uniform() - 1);
  for (const int64_t which : permutation(4, rng)) {
    if (which == 0 && options.brightness > 0) adjust_brightness(image, brightness);
    if (which == 1 && options.contrast > 0) adjust_contrast(image, contrast);
    if (which == 2 && options.saturation > 0) adjust_saturation(image, saturation);
    if (which == 3 && options.hue > 0) adjust_hue(image, hue);
  }
}

}  // namespace skipway
