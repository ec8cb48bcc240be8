// A small data set of class folders for tests that need no real images. Not random: the same files
// every time.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "data/image.h"

namespace skipway {

/// size x size, of a colour and stripes that depend on `label` and a brightness on `number`, so
/// that classes can be told apart and no two images are the same.
Image small_image(int64_t label, int64_t number, int64_t size);

/// Writes <class>/<number>.png below `folder` for each class.
void write_small_part(const std::filesystem::path& folder, const std::vector<std::string>& classes,
                      int64_t images_per_class, int64_t size, int64_t first_number = 0);

}  // namespace skipway
