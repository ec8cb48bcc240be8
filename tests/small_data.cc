// Images of plain stripes as PNG files, by arithmetic.
#include "small_data.h"

#include <fmt/format.h>

#include <array>

namespace skipway {

Image small_image(int64_t label, int64_t number, int64_t size) {
  static constexpr std::array<std::array<int64_t, 3>, 4> kColours = {
      {{200, 40, 40}, {40, 200, 40}, {40, 40, 200}, {180, 180, 40}}};
  const auto& colour = kColours[static_cast<size_t>(label) % kColours.size()];
  Image image{size, size, {}};
  for (int64_t y = 0; y < size; ++y)
    for (int64_t x = 0; x < size; ++x) {
      const int64_t stripe = (label % 2 ? x : y) / 2 % 2 * 30;
      for (const int64_t channel : colour)
        image.rgb.push_back(static_cast<uint8_t>(channel + stripe - number % 40));
    }
  // Numbers beyond the 40 brightnesses still give different images.
  image.rgb[0] = static_cast<uint8_t>(number);
  return image;
}

void write_small_part(const std::filesystem::path& folder, const std::vector<std::string>& classes,
                      int64_t images_per_class, int64_t size, int64_t first_number) {
  for (size_t label = 0; label < classes.size(); ++label) {
    std::filesystem::create_directories(folder / classes[label]);
    for (int64_t i = first_number; i < first_number + images_per_class; ++i)
      write_png(folder / classes[label] / fmt::format("{:04}.png", i),
                small_image(static_cast<int64_t>(label), i, size));
  }
}

}  // namespace skipway
