// A tree of class folders with JPEG and PNG files, decoded on all threads. Not its division into
// train and test when it has none; see dataset.h.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "data/archive.h"
#include "data/dataset.h"
#include "data/image.h"

namespace skipway {

/// Whether the name ends as a file that load_image_folder decodes.
bool is_image_name(std::string_view path);

/// Reads one of these, with at most one folder around it:
///   train/<class>/…  test/<class>/…     val/ or valid/ count as test/ when there is no test/
///   train/<class>/…                     test stays empty
///   test/<class>/…                      train stays empty
///   <class>/…                           train has all; test stays empty
/// A class takes the images of the folders in it too. Classes and, in them, files are in order of
/// their bytes. Other files are left out and counted in the log; images that cannot be decoded go
/// to bad_files. A class folder without images stays a class.
/// image_size 0 is chosen as LoadOptions says; images come as [n, size, size, 3].
/// Errors: kData when there are no classes or images, all images of a part are bad, train and test
/// have different classes; kMemory when the decoded images would not fit.
Dataset load_image_folder(const FileTree& tree, int64_t image_size);

/// Errors: kMemory, naming `where`, when so many images of that side [pixels] would not fit.
void require_memory_for_images(int64_t count, int64_t size, const std::filesystem::path& where);

/// The side that LoadOptions::image_size 0 stands for. `shapes` must not be empty.
int64_t automatic_image_size(const std::vector<ImageShape>& shapes);

}  // namespace skipway
