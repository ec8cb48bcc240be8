#include "record/safetensors.h"
