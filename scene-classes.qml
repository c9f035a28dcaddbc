<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.0" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1">
      <colorPalette>
        <paletteEntry value="0" color="#16491c" alpha="255" label="forest" />
        <paletteEntry value="1" color="#daa66d" alpha="255" label="sand" />
        <paletteEntry value="2" color="#1c69c6" alpha="255" label="water" />
      </colorPalette>
    </rasterrenderer>
  </pipe>
</qgis>